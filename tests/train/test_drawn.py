"""Students of a distribution: the pictures of an epoch, the training against a plain loop, restarts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddfast.train import LoopOptions, StudentConfig
from ddfast.train import loop as training_loop
from ddfast.train.drawn import FRESH, FixedPictures, SampledPictures, decodings, train_on_drawn
from ddfast.train.dsa import apply_dsa, draw_dsa
from ddfast.train.objective import Batch
from ddfast.train.views import epoch_order
from tests.train.latent_case import tiny_distribution

CONFIG = StudentConfig(
    epochs=4, batch_size=12, optimizer="sgd", lr=0.05, nesterov=False, weight_decay=5e-3, decay_all=True,
    schedule="milestones", milestones=(2,), reset_momentum=True, flip=False, cutmix_alpha=0.0, temperature=1.0,
    bn_twice=False, dsa="color_crop_flip", seed=3,
)  # fmt: skip


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten(),
            nn.Linear(32, 8),
        )  # fmt: skip


def soft_labels() -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(1)).mul(3).softmax(1)


def epoch_pictures(fresh: str, epoch: int, step: int) -> Tensor:
    """What an epoch holds, written down."""
    made = tiny_distribution()
    if fresh == "none":
        return made.means()
    if fresh == "batch":
        return torch.cat([made.samples(seed=3, epoch=epoch, step=step)] * 2)
    return torch.cat([made.means(), made.samples(seed=3, epoch=epoch)])


@pytest.mark.parametrize("fresh", FRESH)
def test_an_epoch_holds_means_and_fresh_samples(fresh: str) -> None:
    pictures = SampledPictures(tiny_distribution(), seed=3, fresh=fresh)
    count = 16 if fresh == "none" else 32
    assert pictures.rows.tolist() == list(range(16)) * (count // 16)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    calls = [(4, 0), (0, 1), (4, 1), (0, 0)]  # in any order
    for epoch, step in calls:
        index = order.split(12)[step]
        assert torch.equal(pictures(Batch(index, epoch, step)), epoch_pictures(fresh, epoch, step)[index])
    assert pictures.decoded == 16 * {"epoch": 1 + 4, "batch": 4, "none": 1}[fresh]
    assert pictures.seconds > 0
    draws = [epoch_pictures(fresh, *call)[-1] for call in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(draws[0], draws[1]) == (fresh != "batch")
    assert torch.equal(draws[0], draws[2]) == (fresh == "none")


def plain(pictures: Callable[[Batch], Tensor] | None, fresh: str, targets: Tensor) -> list[Tensor]:
    """Weights after a plain loop in float64; ``targets`` are probabilities."""
    model, count = network().double(), 16 if fresh == "none" else 32
    momentum: dict[str, Tensor] = {}
    for epoch in range(4):
        if epoch == 2:
            momentum.clear()
        lr = 0.05 if epoch < 2 else 0.005
        for step, index in enumerate(epoch_order(3, epoch, count).split(12)):
            every = epoch_pictures(fresh, epoch, step) if pictures is None else pictures(Batch(index, epoch, step))
            x = (every[index] if pictures is None else every).double()
            draw = draw_dsa("color_crop_flip", len(index), (16, 16), seed=3, epoch=epoch, step=step)
            model.zero_grad()
            logs = model(apply_dsa(x, draw)).log_softmax(1)
            (-(targets[index % 16].double() * logs).sum(1).mean()).backward()
            with torch.no_grad():
                for name, value in model.named_parameters():
                    assert value.grad is not None
                    slope = value.grad + 5e-3 * value
                    momentum[name] = slope + 0.9 * momentum[name] if name in momentum else slope
                    value -= lr * momentum[name]
    return [value.detach() for value in model.parameters()]


def error_of(student: nn.Module, wanted: list[Tensor]) -> float:
    """Relative to how far the weights moved."""
    begun = network().double().parameters()
    moved = torch.cat([(w - b).flatten() for w, b in zip(wanted, begun, strict=True)]).norm()
    off = torch.cat([(s.double() - w).flatten() for s, w in zip(student.parameters(), wanted, strict=True)]).norm()
    assert moved > 0.05
    return float((off / moved).detach())


@pytest.mark.parametrize("fresh", FRESH)
def test_training_is_a_plain_loop(fresh: str) -> None:
    student = network()
    pictures = SampledPictures(tiny_distribution(), seed=3, fresh=fresh)
    report = train_on_drawn(pictures, soft_labels(), student, CONFIG)
    assert report.steps == 4 * (2 if fresh == "none" else 3)
    assert pictures.decoded == 16 * decodings(fresh, 4, report.steps // 4)
    assert error_of(student, plain(None, fresh, soft_labels())) < 1e-4


def test_hard_labels_and_other_pictures_seen_as_often() -> None:
    hard = torch.arange(16) % 8
    images = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    student, fixed = network(), FixedPictures(images, 2)
    train_on_drawn(fixed, hard, student, CONFIG)
    wanted = plain(lambda batch: images[batch.index % 16], "epoch", torch.eye(8)[hard])
    assert error_of(student, wanted) < 1e-4
    assert FixedPictures(images).rows.tolist() == list(range(16))


@pytest.mark.parametrize("fresh", FRESH)
def test_stopped_and_resumed_it_ends_in_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: str
) -> None:
    def train(student: nn.Module, folder: str, stop: int | None = None) -> Any:
        done, step = [], training_loop.EagerStep.__call__

        def counting(self: Any, *given: Any) -> Any:
            done.append(0)
            if len(done) == stop:
                raise KeyboardInterrupt
            return step(self, *given)

        options = LoopOptions(checkpoint=tmp_path / folder, checkpoint_seconds=0)
        pictures = SampledPictures(tiny_distribution(), seed=3, fresh=fresh)
        with monkeypatch.context() as patch:
            patch.setattr(training_loop.EagerStep, "__call__", counting)
            return train_on_drawn(pictures, soft_labels(), student, CONFIG, options=options), len(done)

    whole, cut = network(), network()
    first, steps = train(whole, "whole")
    with pytest.raises(KeyboardInterrupt):
        train(network(), "cut", stop=steps - 1)
    second, left = train(cut, "cut")
    assert left < steps // 2
    assert second.losses == first.losses
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_what_does_not_fit_is_named() -> None:
    fixed = FixedPictures(torch.randn(16, 3, 16, 16))
    with pytest.raises(ValueError, match=r"fresh: got 'often', expected one of epoch, batch, none"):
        SampledPictures(tiny_distribution(), seed=0, fresh="often")
    with pytest.raises(ValueError, match="targets: got 15 for 16 items"):
        train_on_drawn(fixed, torch.zeros(15, dtype=torch.int64), network(), CONFIG)
    with pytest.raises(TypeError, match=r"targets: got torch.float32 \[16\], expected int64"):
        train_on_drawn(fixed, torch.zeros(16), network(), CONFIG)
    with pytest.raises(ValueError, match="with flip, cutmix_alpha; expected uint8"):
        train_on_drawn(fixed, soft_labels(), network(), StudentConfig(epochs=1))
