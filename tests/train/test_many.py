from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ddfast.nets.basic_resnet import BasicResNet
from ddfast.nets.convnet import ConvNet
from ddfast.train import LoopOptions, NonFiniteLossError, StudentConfig, train_student
from ddfast.train.many import train_many
from ddfast.train.stacked import Stacked

SIDE, CLASSES = 16, 4
CONFIG = StudentConfig(epochs=2, batch_size=7, lr=0.01, factor=2, optimizer="sgd", schedule="cosine")


def pictures(count: int = 18) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % CLASSES
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator), labels


def build(kind: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "resnet10":
        return BasicResNet(10, CLASSES, "batch", "small")
    return ConvNet(2, CLASSES, SIDE, width=8, norm=kind)


def teacher() -> nn.Module:
    torch.manual_seed(99)
    return ConvNet(2, CLASSES, SIDE, width=8).eval()


def moved_alike(one: nn.Module, other: nn.Module, start: nn.Module, rtol: float = 2e-3) -> None:
    """Both moved from ``start`` to the same place, within rounding. Biases before a norm have no gradient but noise."""
    for (name, a), b, c in zip(one.named_parameters(), other.parameters(), start.parameters(), strict=True):
        if "conv" in name and name.endswith("bias"):
            continue
        assert (a - c).abs().max() > 1e-5, name
        assert (a - b).abs().max() < rtol * (a - c).abs().max() + 1e-6, name
    for (name, a), b in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("engine", ["grouped", "vmap"])
@pytest.mark.parametrize("kind", ["batch", "instance", "none", "resnet10"])
def test_together_is_as_alone_within_rounding(engine: str, kind: str) -> None:
    images, labels = pictures(14 if kind == "resnet10" else 18)
    config = replace(CONFIG, epochs=1, lr=0.001) if kind == "resnet10" else CONFIG
    configs = [replace(config, seed=seed) for seed in (3, 4, 5)]
    alone, together, start = ([build(kind, seed) for seed in range(3)] for _ in range(3))
    expected = [train_student(images, labels, net, None, c) for net, c in zip(alone, configs, strict=True)]
    reports = train_many(images, labels, together, configs, engine=engine)
    for one, other, begin in zip(alone, together, start, strict=True):
        moved_alike(one, other, begin, 3e-2 if kind == "resnet10" else 2e-3)  # deep: ReLUs near 0 amplify rounding
    for report, truth in zip(reports, expected, strict=True):
        assert report.losses == pytest.approx(truth.losses, rel=1e-3)
        assert report.steps == truth.steps
    assert reports[0].losses != reports[1].losses


@pytest.mark.parametrize("engine", ["grouped", "vmap"])
@pytest.mark.parametrize("kind", ["batch", "instance", "group", "resnet10"])
def test_outputs_gradients_and_statistics_in_float64(engine: str, kind: str) -> None:
    models = [build(kind, seed).double() for seed in range(3)]
    stacked = Stacked(models, engine, channels_last=False)
    x = torch.randn(3, 5, 3, SIDE, SIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = stacked(x)
    out.square().sum().backward()
    for place, model in enumerate(models):
        truth = model(x[place])
        torch.testing.assert_close(out[place], truth, rtol=1e-9, atol=1e-11)
        truth.square().sum().backward()
        for name, value in model.named_parameters():
            torch.testing.assert_close(stacked.get_tensor(name).grad[place], value.grad, rtol=1e-7, atol=1e-9, msg=name)
        for name, value in model.named_buffers():
            torch.testing.assert_close(stacked.get_tensor(name)[place], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("engine", ["grouped", "vmap"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_learning_rates_side_by_side_with_a_teacher(engine: str, optimizer: str) -> None:
    images, labels = pictures()
    base = replace(CONFIG, optimizer=optimizer, temperature=2.0, weight_decay=0.1)
    configs = [replace(base, lr=rate) for rate in (0.002, 0.01, 0.004)]
    alone, together, start = ([build("none", 1) for _ in range(3)] for _ in range(3))
    for net, config in zip(alone, configs, strict=True):
        train_student(images, labels, net, teacher(), config)
    train_many(images, labels, together, configs, teacher(), engine=engine)
    for one, other, begin in zip(alone, together, start, strict=True):
        moved_alike(one, other, begin)


def test_taking_turns_is_bit_for_bit_the_same() -> None:
    images, labels = pictures()
    configs = [replace(CONFIG, seed=seed) for seed in (1, 2)]
    alone, together = ([build("batch", seed) for seed in range(2)] for _ in range(2))
    for net, config in zip(alone, configs, strict=True):
        train_student(images, labels, net, None, config)
    train_many(images, labels, together, configs)  # auto: turns on a CPU
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_decay_rule_and_batch_norm_momentum_are_those_of_one_network() -> None:
    images, labels = pictures()
    config = replace(CONFIG, weight_decay=1.0, lr=0.05, optimizer="adamw", bn_twice=True)
    alone, together, start = (build("batch", 0) for _ in range(3))
    train_student(images, labels, alone, None, config)
    train_many(images, labels, [together], [config], engine="grouped")
    torch.testing.assert_close(alone.layers.norm[0].weight, together.layers.norm[0].weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(alone.layers.norm[1].running_var, together.layers.norm[1].running_var, rtol=1e-2, atol=0)
    assert not torch.equal(start.layers.norm[0].running_mean, together.layers.norm[0].running_mean)


def test_resumed_from_a_checkpoint_of_all(tmp_path: Path) -> None:
    images, labels = pictures()
    configs = [replace(CONFIG, seed=seed, epochs=3) for seed in (1, 2)]
    whole, parted = ([build("batch", seed) for seed in range(2)] for _ in range(2))
    train_many(images, labels, whole, configs, engine="grouped")

    def stop(state: object) -> None:
        if state.epoch == 3:  # type: ignore[attr-defined]
            raise KeyboardInterrupt

    options = LoopOptions(checkpoint=tmp_path / "all.ckpt", checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        train_many(images, labels, parted, configs, engine="grouped", on_progress=stop, options=options)
    reports = train_many(images, labels, parted, configs, engine="grouped", options=options)
    assert len(reports[1].losses) == 3
    for one, other in zip(whole, parted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_what_cannot_be_stacked_is_named() -> None:
    images, labels = pictures()

    class Odd(nn.Module):
        """Mixes channels with a mean, which grouped layers would take over all models."""

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, CLASSES)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return self.fc((x - x.mean(1, keepdim=True)).mean((2, 3)))

    with pytest.raises(ValueError, match=r"'grouped' does not run Odd.*use engine='vmap'"):
        Stacked([Odd(), Odd()], "grouped", channels_last=True)
    train_many(images, labels, [Odd(), Odd()], [CONFIG] * 2, engine="vmap")
    with pytest.raises(ValueError, match="'grouped' does not run ConvTranspose2d"):
        Stacked([nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 2, 2))], "grouped", channels_last=True)
    with pytest.raises(ValueError, match="network 1 is of another architecture"):
        train_many(images, labels, [build("batch", 0), build("none", 0)], [CONFIG] * 2, engine="vmap")
    with pytest.raises(ValueError, match="configs: got 1 for 2 students"):
        train_many(images, labels, [build("batch", 0)] * 2, [CONFIG])
    with pytest.raises(ValueError, match="configs: number 1 differs from the first in more than seed and lr"):
        train_many(images, labels, [build("batch", 0)] * 2, [CONFIG, replace(CONFIG, flip=False)])
    with pytest.raises(ValueError, match="engine: got 'loops'"):
        train_many(images, labels, [build("batch", 0)], [CONFIG], engine="loops")
    options = LoopOptions(validate=lambda model: 0.0)
    with pytest.raises(ValueError, match="validate is not supported"):
        train_many(images, labels, [build("batch", 0)], [CONFIG], options=options)


def test_nan_names_the_student() -> None:
    images, labels = pictures()
    students = [build("none", 0), build("none", 1)]
    with torch.no_grad():
        students[1].classifier.bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match="loss of student 2 became nan in epoch 1, step 1"):
        train_many(images, labels, students, [CONFIG] * 2, engine="vmap")


@pytest.mark.gpu
def test_auto_runs_grouped_convolutions_on_a_gpu() -> None:
    images, labels = pictures()
    configs = [replace(CONFIG, seed=seed) for seed in (3, 4)]
    alone, together, start = ([build("instance", seed).cuda() for seed in range(2)] for _ in range(3))
    for net, config in zip(alone, configs, strict=True):
        train_student(images, labels, net, None, config)
    train_many(images, labels, together, configs, options=LoopOptions(cuda_graph=True))
    for one, other, begin in zip(alone, together, start, strict=True):
        moved_alike(one, other, begin)
