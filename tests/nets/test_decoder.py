"""D3's decoders: the paper's architectures, ghost batch norm, fresh weights from a stream of their own."""

from __future__ import annotations

import math
import random

import pytest
import torch
from torch import Tensor, nn

from ddfast.nets.decoder import KINDS, SIZES, Decoder, DecoderConfig, make_decoder

TINY = [DecoderConfig(kind, size, kernels=8) for kind, size in (("small", 16), ("medium", 16), ("large", 32))]


def latents(config: DecoderConfig, count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, config.latent_size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(config: DecoderConfig) -> nn.Sequential:
    """The architecture written down as torch layers, with torch's own initialisation."""
    first = {"small": 1, "medium": 2, "large": 4}[config.kind] * config.kernels
    deepest = {"small": first // 8, "medium": first // 16, "large": first // 16}[config.kind]
    layers: list[nn.Module] = [] if config.kind == "large" else [nn.Linear(config.latent_size, 4 * first)]
    layers.append(nn.Unflatten(1, (first, 2, 2)))
    width, blocks = first, int(math.log2(config.size)) - 1
    for block in range(blocks):
        keeps = config.kind != "small" and block == blocks - 1
        after = width if keeps else max(width // 2, deepest)
        up = (
            nn.ConvTranspose2d(width, after, 4, 2, 1)
            if config.kind == "small"
            else nn.ConvTranspose2d(width, after, 3, 2, 1, output_padding=1)
        )
        layers += [up, nn.BatchNorm2d(after), nn.LeakyReLU(0.01)]
        width = after
    return nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1), nn.Tanh())


@pytest.mark.parametrize(
    ("kind", "z", "parameters", "mmacs"),
    [("small", 64, 789_187, 30.9), ("medium", 2048, 5_774_691, 36.0), ("large", 4096, 6_308_547, 120.3)],
)
def test_the_papers_decoders_at_64_pixels(kind: str, z: int, parameters: int, mmacs: float) -> None:
    config = DecoderConfig(kind, 64)
    assert config.latent_size == z
    assert config.parameters == parameters
    assert round(config.macs / 1e6, 1) == mmacs
    decoder = Decoder(config)
    assert sum(parameter.numel() for parameter in decoder.parameters()) == parameters
    assert any(isinstance(module, nn.Linear) for module in decoder.modules()) == (kind != "large")


def test_widths_of_the_paper_at_32_pixels_and_of_the_rule() -> None:
    assert DecoderConfig("small", 32).widths == (256, 128, 64, 32, 32)
    assert DecoderConfig("medium", 32).widths == (512, 256, 128, 64, 64)
    assert DecoderConfig("medium", 128).widths == (512, 256, 128, 64, 32, 32, 32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_size_equals_plain_layers(kind: str, size: int) -> None:
    config = DecoderConfig(kind, size, kernels=8, scale=1.5)
    decoder, other = make_decoder(config, 3, "plain").double(), plain(config).double()
    assert [p.shape for p in decoder.parameters()] == [p.shape for p in other.parameters()]
    assert config.parameters == sum(p.numel() for p in other.parameters())
    other.load_state_dict(dict(zip((n for n, _ in other.named_parameters()), decoder.parameters(), strict=True)), False)
    z = latents(config, 5)
    pictures = decoder(z)
    assert pictures.shape == (5, 3, size, size)
    torch.testing.assert_close(pictures, 1.5 * other(z), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("config", TINY, ids=lambda config: config.kind)
def test_macs_are_those_of_the_layers(config: DecoderConfig) -> None:
    counted = []

    def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        weight = module.weight
        positions = {nn.Linear: 1, nn.ConvTranspose2d: inputs[0][0, 0].numel(), nn.Conv2d: output[0, 0].numel()}
        counted.append(weight.numel() * positions[type(module)])

    decoder = make_decoder(config, 0, "macs")
    for module in decoder.modules():
        if isinstance(module, (nn.Linear, nn.ConvTranspose2d, nn.Conv2d)):
            module.register_forward_hook(count)
    decoder(latents(config, 1).float())
    assert config.macs == sum(counted)


@pytest.mark.parametrize("batch_norm", ["batch", "running"])
@pytest.mark.parametrize("config", TINY, ids=lambda config: config.kind)
def test_groups_equal_separate_calls_with_gradients_and_statistics(config: DecoderConfig, batch_norm: str) -> None:
    config = DecoderConfig(config.kind, config.size, kernels=8, batch_norm=batch_norm)
    weight = torch.randn(12, 3, config.size, config.size, generator=torch.Generator().manual_seed(1)).double()
    found = []
    for apart in (False, True):
        decoder, z = make_decoder(config, 0, "groups").double(), latents(config, 12).requires_grad_()
        pictures = torch.cat([decoder(part) for part in z.split(4)]) if apart else decoder(z, groups=3)
        gradients = torch.autograd.grad((pictures * weight).sum(), [z, *decoder.parameters()])
        found.append([pictures, *gradients, *decoder.buffers()])
    for together, separate in zip(*found, strict=True):
        torch.testing.assert_close(together, separate, rtol=1e-10, atol=1e-11)
    whole = make_decoder(config, 0, "groups").double()(latents(config, 12))
    assert (whole - found[0][0]).abs().max() > 1e-3  # one batch is not three


def test_float32_groups_err_no_more_than_separate_calls() -> None:
    config = DecoderConfig("small", 32, kernels=16)
    decoder, z = make_decoder(config, 0, "f32"), latents(config, 6)
    exact = make_decoder(config, 0, "f32").double()(z, groups=2)
    grouped = (decoder(z.float(), groups=2) - exact).abs().max()
    separate = (torch.cat([decoder(part) for part in z.float().split(3)]) - exact).abs().max()
    assert grouped <= 2 * separate + 1e-6
    assert decoder(z.float()).is_contiguous()


def test_running_statistics_decode_each_latent_alone_in_evaluation_mode() -> None:
    config = DecoderConfig("small", 16, kernels=8, batch_norm="running")
    decoder, z = make_decoder(config, 0, "running").double(), latents(config, 6)
    for _ in range(3):
        decoder(z)
    decoder.eval()
    torch.testing.assert_close(decoder(z), torch.cat([decoder(row) for row in z.split(1)]), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(decoder(z, groups=3), decoder(z), rtol=0, atol=0)
    ours = make_decoder(DecoderConfig("small", 16, kernels=8), 0, "running").double()
    assert not dict(ours.named_buffers())
    torch.testing.assert_close(ours.eval()(z), ours.train()(z), rtol=0, atol=0)  # "batch": evaluation changes nothing


def test_given_statistics_are_those_of_the_call() -> None:
    config = DecoderConfig("medium", 16, kernels=8)
    decoder, z = make_decoder(config, 0, "statistics").double(), latents(config, 5)
    known = decoder.statistics(z)
    torch.testing.assert_close(decoder(z[2:3], statistics=known), decoder(z)[2:3], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("scale", [1.0, 2.7])
def test_scale_bounds_the_pixels(scale: float) -> None:
    decoder = make_decoder(DecoderConfig("small", 16, kernels=8, scale=scale), 0, "scale").double()
    with torch.no_grad():
        decoder.head.weight.mul_(1e3)
    pictures = decoder(latents(decoder.config, 4)).detach()
    assert float(pictures.abs().max()) == pytest.approx(scale, abs=1e-6)


def test_fresh_weights_follow_torchs_defaults() -> None:
    config = DecoderConfig("medium", 32, kernels=32)
    ours = list(make_decoder(config, 0, "defaults").state_dict().values())
    for mine, theirs in zip(ours, (p.detach() for p in plain(config).parameters()), strict=True):
        count = mine.numel()
        if count < 500:
            assert (mine.std() == 0) == (theirs.std() == 0)  # norms are constant, biases are not
            continue
        assert float(mine.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=10 / count**0.5)
        assert float(mine.std()) == pytest.approx(float(theirs.std()), rel=6 / count**0.5)
        assert abs(float(mine.mean())) < 6 * float(mine.std()) / count**0.5


def test_weights_depend_on_seed_and_stream_alone() -> None:
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    config = TINY[0]
    first = [parameter.detach() for parameter in make_decoder(config, 7, "a").parameters()]
    for again, same in ((make_decoder(config, 7, "a"), True), (make_decoder(config, 8, "a"), False),
                        (make_decoder(config, 7, "b"), False)):  # fmt: skip
        assert torch.equal(first[0], next(again.parameters())) is same
    starts = [parameter.flatten()[:3] / parameter.flatten()[0] for parameter in first if len(parameter.unique()) > 2]
    for place, start in enumerate(starts):  # layers, and weight and bias, are drawn apart
        assert not any(torch.allclose(start, other) for other in starts[:place])
    Decoder(config)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state


def test_config_survives_json() -> None:
    config = DecoderConfig("large", 16, kernels=8, scale=2.7, batch_norm="running")
    assert config.as_json()["z"] == 128
    again = DecoderConfig.from_json(config.as_json())
    assert (again.latent_size, again.shapes) == (config.latent_size, config.shapes)
    assert set(config.stored_shapes) == {name for name in Decoder(config).state_dict() if "num_batches" not in name}
    with pytest.raises(ValueError, match=r"decoder: got .*width.*expected a mapping with batch_norm"):
        DecoderConfig.from_json({**config.as_json(), "width": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "huge"}, "kind: got 'huge', expected one of small, medium, large"),
        ({"size": 48}, "size: got 48, expected one of 16, 32, 64, 128, 256"),
        ({"size": 64.0}, "size: got 64.0, expected an integer"),
        ({"kernels": 12}, "kernels: got 12, expected a multiple of 8"),
        ({"kind": "large", "z": 64}, "z: got 64 for a large decoder.*4096"),
        ({"z": 0}, "z: got 0, expected 1 or more"),
        ({"scale": 0.0}, "scale: got 0.0, expected a positive number"),
        ({"scale": float("nan")}, "scale: got nan"),
        ({"batch_norm": "group"}, "batch_norm: got 'group', expected one of batch, running"),
    ],
)
def test_settings_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        DecoderConfig(**options)


def test_latents_that_are_refused_and_an_empty_batch() -> None:
    decoder = make_decoder(TINY[0], 0, "bad")
    with pytest.raises(ValueError, match=r"z: got shape \[4, 65\], expected \[n, 64\]"):
        decoder(torch.zeros(4, 65))
    with pytest.raises(ValueError, match="groups: got 3 for 4 latents, expected a divisor"):
        decoder(torch.zeros(4, 64), groups=3)
    with pytest.raises(ValueError, match="seed: got -1"):
        make_decoder(TINY[0], -1, "bad")
    assert decoder(torch.zeros(0, 64)).shape == (0, 3, 16, 16)


@pytest.mark.gpu
def test_gpu_agrees_with_the_cpu() -> None:
    config = DecoderConfig("small", 32, kernels=16)
    decoder, z = make_decoder(config, 0, "gpu").double(), latents(config, 6)
    expected = decoder(z, groups=2)
    torch.testing.assert_close(decoder.cuda()(z.cuda(), groups=2).cpu(), expected, rtol=1e-9, atol=1e-10)
