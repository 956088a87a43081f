"""D3's settings: the released rows, budgets of our own presets, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from ddfast.methods import get_method
from ddfast.methods.d3 import PRESETS, D3Config
from ddfast.train.latent.sizes import BlockSize, distribution_sizes

# blocks, lpc, decoder, z, iterations, steps, expert epochs, max start, lr of latents, of the decoder, of the student at
# the start, of that rate, batch, samples of a class, epoch of the label expert: the authors' commands
ROWS: dict[str, tuple[Any, ...]] = {
    "imagenet64-1ipc": (5, 1, "small", 64, 10_000, 10, 2, 27, 3e-4, 3e-4, 1e-2, 1e-6, None, 30, 9),
    "imagenet64-2ipc": (2, 2, "medium", 2048, 10_000, 10, 2, 10, 5e-3, 8e-5, 1.5e-2, 5e-6, 250, 12, 12),
    "imagenet64-10ipc": (5, 10, "large", 4096, 8000, 10, 2, 27, 5e-3, 8e-5, 8e-3, 1e-6, 250, 20, 13),
}


@pytest.mark.parametrize("name", ROWS)
def test_released_rows(name: str) -> None:
    c = get_method("d3").configure(name)
    assert ROWS[name] == (
        c.blocks, c.lpc, c.decoder, c.decoder_config().latent_size, c.iterations, c.syn_steps, c.expert_epochs,
        c.max_start_epoch, c.lr_latent, c.lr_decoder, c.lr_teacher, c.lr_lr, c.batch_syn, c.mmd_samples, c.label_epoch,
    )  # fmt: skip
    assert (c.size, c.depth, c.width, c.norm, c.experts, c.scale, c.bandwidths) == (
        64, 4, 128, "instance", 100, 1.0, "paper"
    )  # fmt: skip
    assert (c.mtt_weight, c.mmd_weight, c.mmd_features, c.sampling, c.momentum) == (1.0, 1.0, "final", True, 0.5)
    assert c.draws == {1: 30, 2: 6, 10: 2}[c.lpc]


@pytest.mark.parametrize(("name", "classes", "budget"), [("tinyimagenet-6ipc", 200, 6), ("cifar10-10ipc", 10, 10)])
def test_our_presets_keep_their_budget(name: str, classes: int, budget: float) -> None:
    config = get_method("d3").configure(name)
    block = BlockSize(config.decoder_config(), classes * config.lpc)
    images = distribution_sizes([block], classes, soft_labels=classes)["ipc_equivalent"]["total"]
    assert budget - 1 < images <= budget


@pytest.mark.parametrize(("change", "message"), [
    ({"mtt_weight": 0.0, "mmd_weight": 0.0}, "got 0 for both, expected at least one term"),
    ({"mmd_weight": -1.0}, "mmd_weight: got -1.0, expected 0 or a positive number"),
    ({"mmd_samples": 1}, "mmd_samples: got 1 with lpc 1, expected 2 or more"),
    ({"max_start_epoch": 29}, "max_start_epoch: got 29 with expert_epochs 2; an iteration would look at epoch 30"),
    ({"max_start_epoch": 29, "mtt_weight": 0.0, "mmd_features": "target"}, "would look at epoch 31"),
    ({"bandwidths": "wide"}, "bandwidths: got 'wide', expected one of paper, median"),
    ({"decoder": "tiny"}, "decoder: got 'tiny', expected one of small"),
    ({"size": 48}, "size: got 48"),
    ({"scale": 0.0}, "scale: got 0.0, expected a positive number"),
    ({"batch_syn": 0}, "batch_syn: got 0, expected 1 or more"),
    ({"chunk": -1}, "chunk: got -1"),
    ({"lr_decoder": float("inf")}, "lr_decoder: got inf"),
    ({"momentum": 1.0}, "momentum: got 1.0"),
    ({"dsa": "blur"}, "dsa: got 'blur'"),
])  # fmt: skip
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        D3Config(**change)


def test_options_that_decide_nothing_are_no_part_of_the_identity() -> None:
    assert D3Config(chunk=8, memory="recompute").identity() == D3Config().identity()
    assert D3Config(sampling=False).identity() != D3Config().identity()
    # matching features alone looks at no start epochs
    assert D3Config(mtt_weight=0.0, max_start_epoch=50).mmd_weight == 1.0
    assert D3Config(mmd_weight=0.0, mmd_features="target", max_start_epoch=28).mtt_weight == 1.0
    assert set(PRESETS) == {*ROWS, "tinyimagenet-6ipc", "cifar10-10ipc", "smoke"}
