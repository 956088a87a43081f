"""Distributions: decoding block by block, storage, sizes, and what is refused on reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.store import DistilledSet
from ddfast.store.numbers import pack, unpack
from ddfast.train.latent import BlockSize, Distribution, LatentBlock, distribution_sizes, noise, sample
from tests.train.latent_case import stored, tiny_block, tiny_distribution


def test_means_decode_each_block_with_its_own_decoder() -> None:
    whole = tiny_distribution()
    expected = torch.cat([block.decoder(block.latents[:, :, 0]) for block in whole.blocks])
    assert torch.equal(whole.means(), expected)
    assert not whole.means().requires_grad
    assert whole.labels.tolist() == [label for label in range(8) for _ in range(2)]
    assert (len(whole), whole.size) == (16, 16)


def test_batch_says_which_priors_share_statistics() -> None:
    block = tiny_block(batch=3)
    z = block.latents[:, :, 0]
    expected = torch.cat([block.decoder(part) for part in (z[:3], z[3:6], z[6:])])
    assert torch.equal(block.means(), expected)
    assert (block.means() - tiny_block().means()).abs().max() > 1e-3


def test_running_statistics_decode_priors_independently_and_keep_the_mode() -> None:
    block = tiny_block(batch_norm="running")
    for _ in range(20):
        block.decoder(block.latents[:, :, 0])
    before = {name: buffer.clone() for name, buffer in block.decoder.named_buffers()}
    alone = torch.cat([LatentBlock(block.latents[row : row + 1], block.labels[row : row + 1], block.decoder).means()
                       for row in range(8)])  # fmt: skip
    torch.testing.assert_close(block.means(), alone, rtol=1e-5, atol=1e-6)
    assert block.decoder.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in block.decoder.named_buffers())


def test_samples_are_fresh_each_epoch_and_each_step() -> None:
    whole = tiny_distribution()
    first = whole.samples(seed=3, epoch=5)
    assert torch.equal(first, whole.samples(seed=3, epoch=5))
    others = [whole.samples(seed=4, epoch=5), whole.samples(seed=3, epoch=6), whole.means(),
              whole.samples(seed=3, epoch=5, step=0), whole.samples(seed=3, epoch=5, step=1)]  # fmt: skip
    for place, other in enumerate(others):
        for another in [first, *others[:place]]:
            assert (other - another).abs().mean() > 1e-2
    block = whole.blocks[1]
    eps = noise(3, "d3/samples", 5, shape=(8, block.latents.shape[1]), first=8)
    assert torch.equal(first[8:], block.decoder(sample(block.latents, eps)))


def test_a_prior_without_variance_samples_its_mean() -> None:
    whole = tiny_distribution()
    for block in whole.blocks:
        block.latents[:, :, 1] = -200.0
    torch.testing.assert_close(whole.samples(seed=0, epoch=0), whole.means(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", ["safetensors", "folder"])
@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_a_stored_set_reads_back_within_the_bounds(tmp_path: Path, storage: str, layout: str, batch_norm: str) -> None:
    whole = tiny_distribution(batch=5, batch_norm=batch_norm, scale=2.0)
    for block in whole.blocks:
        block.decoder(block.latents[:, :, 0])
    stored(whole, storage).save(tmp_path / "set", format=layout)
    again = Distribution.of(DistilledSet.load(tmp_path / "set"))
    assert again is not None
    assert torch.equal(again.labels, whole.labels)
    for mine, theirs in zip(whole.blocks, again.blocks, strict=True):
        assert theirs.batch == 5
        assert theirs.decoder.config.as_json() == mine.decoder.config.as_json()
        pairs = [(mine.latents, theirs.latents, (1,))]
        names, state = mine.decoder.config.stored_shapes, theirs.decoder.state_dict()
        pairs += [(mine.decoder.state_dict()[name], state[name], None) for name in names]
        for value, read, over in pairs:
            axes = over or tuple(range(1, value.ndim))
            bound = {"fp32": torch.zeros(()), "fp16": value.abs() * 2.0**-11 + 2.0**-25}.get(storage)
            if bound is None:
                bound = value.abs().amax(axes, keepdim=True) / 254 * 1.0001 if value.ndim > 1 else torch.zeros(())
            assert bool(((value - read).abs() <= bound).all())
    if storage == "fp32":
        assert torch.equal(again.means(), whole.means())
    else:
        assert 0 < float((again.means() - whole.means()).abs().max()) < {"fp16": 0.02, "int8": 0.4}[storage]


def test_eight_bits_keep_zero_rows_and_scales_of_means_and_variances_apart() -> None:
    latents = torch.stack([torch.linspace(-100, 100, 9), torch.linspace(-0.1, 0.1, 9)], 1)[None].repeat(2, 1, 1)
    latents[1] = 0
    packed = pack("latents.0", latents, "int8", over=(1,))
    assert packed["latents.0"].dtype == torch.int8
    assert packed["latents.0.scale"].shape == (2, 1, 2)
    read = unpack("latents.0", packed, "int8", over=(1,))
    assert float((read - latents)[0, :, 1].abs().max()) <= 0.1 / 254 * 1.0001
    assert torch.equal(read[1], latents[1])


@pytest.mark.parametrize("storage", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("batch_norm", ["batch", "running"])
def test_sizes_are_those_of_the_tensors(storage: str, batch_norm: str) -> None:
    whole = tiny_distribution(batch_norm=batch_norm)
    sizes = whole.sizes(storage, classes=10, soft_labels=8)
    assert sizes["total"]["bytes"] == sum(t.nbytes for t in whole.tensors(storage).values()) + 16 * 8 * 4
    trained = sum(parameter.numel() for block in whole.blocks for parameter in block.decoder.parameters())
    assert sizes["decoders"]["numbers"] == trained
    assert sizes["latents"]["numbers"] == sum(block.latents.numel() for block in whole.blocks)
    assert sizes["bits_per_class"] == 8 * sizes["total"]["bytes"] / 10
    assert whole.sizes()["classes"] == 8


@pytest.mark.parametrize(
    ("kind", "tasks", "lpc", "without", "total"),
    [("small", 5, 1, 0.33, 0.41), ("medium", 2, 2, 1.61, 1.77), ("large", 5, 10, 9.23, 10.05)],
)
def test_the_papers_budgets_on_imagenet(kind: str, tasks: int, lpc: int, without: float, total: float) -> None:
    blocks = [BlockSize(DecoderConfig(kind, 64), 1000 * lpc // tasks)] * tasks
    sizes = distribution_sizes(blocks, 1000, soft_labels=1000)
    assert round(sizes["ipc_equivalent"]["without_labels"], 2) == without
    assert round(sizes["ipc_equivalent"]["total"], 2) == total
    half = distribution_sizes(blocks, 1000, storage="fp16", soft_labels=1000, label_bytes=2)
    assert half["ipc_equivalent"] == sizes["ipc_equivalent"]
    assert 2 * half["total"]["bytes"] == sizes["total"]["bytes"] == 4 * sizes["total"]["numbers"]


def test_a_grid_goes_from_prior_to_prior() -> None:
    whole = tiny_distribution()
    grid, means = whole.grid((4, 5, 6, 7), steps=5), whole.means()
    assert grid.shape == (5, 5, 3, 16, 16)
    for place, label in (((0, 0), 4), ((0, 4), 5), ((4, 0), 6), ((4, 4), 7)):
        torch.testing.assert_close(grid[place], means[2 * label], rtol=1e-4, atol=1e-5)
    block = whole.blocks[1]
    z = block.latents[[0, 2, 4, 6], :, 0]
    middle = block.decoder(z.mean(0, keepdim=True), statistics=block.decoder.statistics(block.latents[:, :, 0]))
    torch.testing.assert_close(grid[2, 2], middle[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(block.grid((1, 1, 1, 1), 2)[0, 1], means[9], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"classes: got \(0, 1, 2, 4\), expected four of one block"):
        whole.grid((0, 1, 2, 4))
    with pytest.raises(ValueError, match=r"corners: got .* expected four rows from 0 to 7"):
        block.grid((0, 1, 2, 8))
    with pytest.raises(ValueError, match="steps: got 1"):
        block.grid((0, 1, 2, 3), 1)


def test_a_set_of_pictures_has_no_distribution() -> None:
    assert Distribution.of(DistilledSet(torch.zeros(1, 4, 4, 3, dtype=torch.uint8), torch.tensor([0]), ("a",))) is None


def _without(name: str) -> Any:
    def change(given: DistilledSet) -> None:
        del given.extras[name]

    return change


def _poison(name: str, value: float) -> Any:
    def change(given: DistilledSet) -> None:
        given.extras[name].view(-1)[3] = value

    return change


def _tensor(name: str, make: Any) -> Any:
    def change(given: DistilledSet) -> None:
        given.extras[name] = make(given.extras[name])

    return change


def _entry(**values: Any) -> Any:
    def change(given: DistilledSet) -> None:
        given.manifest["distribution"]["blocks"][1].update(values)

    return change


def _decoder(**values: Any) -> Any:
    def change(given: DistilledSet) -> None:
        given.manifest["distribution"]["blocks"][1]["decoder"].update(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("latents.1"), r"latents\.1: missing from the set's tensors; copy the set anew"),
        (_without("decoder.0.blocks.2.norm.bias"), r"decoder\.0\.blocks\.2\.norm\.bias: missing"),
        (_poison("latents.0", float("nan")), r"latents\.0: holds NaN or infinity"),
        (_poison("decoder.1.head.weight", float("inf")), r"decoder\.1\.head\.weight: holds NaN or infinity"),
        (_tensor("latents.1", lambda t: t[:, :-1]), r"latents\.1: got shape \[8, 63, 2\], expected \[8, 64, 2\]"),
        (_tensor("latents.0", lambda t: t.half()), r"latents\.0: got torch\.float16, expected torch\.float32"),
        (_decoder(size=32), r"blocks\[1\]: its decoder makes pictures of 32 pixels, the set's have \[16, 16\]"),
        (_decoder(kernels=16), r"decoder\.1\.first\.weight: got shape .* expected"),
        (_decoder(size=20), r"blocks\[1\]: size: got 20"),
        (_decoder(depth=3), r"blocks\[1\]: decoder: got"),
        (_entry(classes=[4, 5, 6]), r"blocks\[1\]: its priors are labelled \[7\], not among its classes"),
        (_entry(classes="all"), r"blocks\[1\]: classes: got 'all', expected a list of labels"),
        (_entry(rows=7), r"blocks have 15 priors for 16 labels"),
        (_entry(rows="8"), r"blocks\[1\]: rows: got '8', expected a number from 1"),
        (_entry(batch=0), r"blocks\[1\]: batch: got 0, expected a number from 1"),
        (lambda s: s.manifest["distribution"]["blocks"][0].pop("rows"), r"blocks\[0\]: got .* expected batch, classes"),
        (lambda s: s.manifest["distribution"].update(storage="fp8"), r"distribution: got .* expected storage \(fp32"),
        (lambda s: s.manifest["distribution"].update(blocks=[]), r"distribution: blocks: got \[\]"),
        (lambda s: s.manifest.update(distribution=[1]), r"distribution: got \[1\]"),
    ],
)  # fmt: skip
def test_damage_is_named(change: Any, message: str) -> None:
    given = stored(tiny_distribution())
    given.manifest = json.loads(json.dumps(given.manifest))
    change(given)
    with pytest.raises(ValueError, match=message):
        Distribution.of(given)


def test_damaged_eight_bit_scales_are_named() -> None:
    given = stored(tiny_distribution(), "int8")
    given.extras["latents.0.scale"] = given.extras["latents.0.scale"][:, 0]
    with pytest.raises(ValueError, match=r"latents\.0\.scale: got torch\.float32 \[8, 2\], expected .*\[8, 1, 2\]"):
        Distribution.of(given)
    del given.extras["latents.0.scale"]
    with pytest.raises(ValueError, match=r"latents\.0\.scale: missing"):
        Distribution.of(given)


def test_what_cannot_be_stored_is_named() -> None:
    whole = tiny_distribution()
    with pytest.raises(ValueError, match="storage: got 'fp8', expected one of fp32, fp16, int8"):
        whole.tensors("fp8")
    with pytest.raises(ValueError, match="storage: got 'fp8'"):
        whole.as_json("fp8")
    whole.blocks[1].latents[2, 5, 1] = 1e6
    with pytest.raises(ValueError, match=r"latents\.1: got up to 1e\+06, float16 ends at 65504; store fp32"):
        whole.tensors("fp16")
    whole.blocks[1].latents[2, 5, 1] = float("nan")
    with pytest.raises(ValueError, match=r"latents\.1: holds NaN or infinity"):
        whole.tensors("int8")


def test_blocks_that_do_not_fit_are_refused() -> None:
    block = tiny_block()
    with pytest.raises(ValueError, match=r"latents: got shape \[8, 60, 2\], expected \[n, 64, 2\] for a small decoder"):
        LatentBlock(block.latents[:, :60], block.labels, block.decoder)
    with pytest.raises(TypeError, match=r"latents: got torch\.int8"):
        LatentBlock(block.latents.to(torch.int8), block.labels, block.decoder)
    with pytest.raises(TypeError, match=r"labels: got torch\.int32, expected torch\.int64"):
        LatentBlock(block.latents, block.labels.int(), block.decoder)
    with pytest.raises(ValueError, match=r"labels: got shape \[3\] for 8 priors"):
        LatentBlock(block.latents, block.labels[:3], block.decoder)
    with pytest.raises(ValueError, match="batch: got 0, expected 1 or more"):
        LatentBlock(block.latents, block.labels, block.decoder, 0)
    large = make_decoder(DecoderConfig("small", 32, kernels=8), 0, "x")
    with pytest.raises(ValueError, match=r"blocks: got pictures of \[16, 32\] pixels"):
        Distribution([block, LatentBlock(block.latents, block.labels, large)])
    with pytest.raises(ValueError, match="at least one block"):
        Distribution([])
    with pytest.raises(ValueError, match="classes: got 0"):
        distribution_sizes([BlockSize(block.decoder.config, 8)], 0)
