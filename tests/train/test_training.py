from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ddfast._types import IMAGENET, Normalization
from ddfast.train import NonFiniteLossError, TrainConfig, TrainProgress, accuracy, fit, predict
from ddfast.train.loop import make_optimizer
from ddfast.train.schedules import SCHEDULES, learning_rate


def net(classes: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))


def coloured(count: int = 90) -> tuple[torch.Tensor, torch.Tensor]:
    """Three classes: the brighter channel names the class, with noise."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 120, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    images[torch.arange(count), :, :, labels] += 30
    return images, labels


def test_learns_and_reports() -> None:
    images, labels = coloured()
    model, seen = net(), []
    before = accuracy(model, images, labels)
    config = TrainConfig(epochs=6, batch_size=32, lr=0.05, shift=1, flip=True)
    report = fit(model, images, labels, config, on_progress=seen.append)
    assert accuracy(model, images, labels) > max(0.9, before)
    assert report.losses[-1] < 0.5 * report.losses[0]
    assert report.steps == 18 == len(seen)
    last: TrainProgress = seen[-1]
    assert (last.epoch, last.epochs, last.step, last.steps) == (6, 6, 3, 3)
    assert last.eta_seconds == 0
    assert seen[0].eta_seconds > 0
    assert last.images_per_second > 0


def test_same_seed_same_weights_other_seed_other_weights() -> None:
    images, labels = coloured(33)
    outcomes = []
    for seed in (1, 1, 2):
        model = net()
        model.append(nn.Dropout(0.5))
        state = torch.get_rng_state()
        fit(model, images, labels, TrainConfig(epochs=2, batch_size=10, shift=1, flip=True, seed=seed))
        assert torch.equal(torch.get_rng_state(), state)
        outcomes.append(model[0].weight.detach().clone())
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def test_one_step_is_plain_sgd() -> None:
    images, labels = coloured(12)
    config = TrainConfig(epochs=1, batch_size=12, lr=0.1, momentum=0.0, weight_decay=0.01, schedule="constant")
    model, twin = net(), net()
    fit(model, images, labels, config)
    x = ((images.float() / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)).permute(0, 3, 1, 2)
    nn.functional.cross_entropy(twin(x), labels).backward()
    for (name, moved), start in zip(model.named_parameters(), twin.parameters(), strict=True):
        decay = 0.01 if start.ndim > 1 else 0.0
        truth = start - 0.1 * (start.grad + decay * start)
        torch.testing.assert_close(moved, truth, rtol=1e-4, atol=1e-5, msg=name)


def test_bias_and_norm_are_not_decayed() -> None:
    decayed, plain = make_optimizer(net(), TrainConfig(optimizer="adamw")).param_groups
    assert [value.ndim for value in decayed["params"]] == [4, 2]
    assert [value.ndim for value in plain["params"]] == [1] * 4
    assert plain["weight_decay"] == 0


def test_nan_loss_names_epoch_step_and_rate() -> None:
    images, labels = coloured(40)
    with pytest.raises(NonFiniteLossError, match=r"epoch \d+, step \d+, at learning rate 1e\+30"):
        fit(net(), images, labels, TrainConfig(epochs=3, batch_size=10, lr=1e30, schedule="constant"))


def test_bf16_runs_close_to_fp32() -> None:
    images, labels = coloured()
    model = net()
    fit(model, images, labels, TrainConfig(epochs=5, batch_size=32, precision="bf16"))
    assert accuracy(model, images, labels) > 0.9


def test_predict_keeps_the_mode_and_the_normalization_matters() -> None:
    images, _ = coloured(7)
    model = net().train()
    first = predict(model, images, batch_size=3)
    assert model.training
    torch.testing.assert_close(first, predict(model, images, batch_size=7))
    assert not torch.allclose(first, predict(model, images, normalization=Normalization((0.5,) * 3, (0.5,) * 3)))


def test_schedules() -> None:
    assert learning_rate("cosine", 2.0, 0.0) == 2.0
    assert learning_rate("cosine", 2.0, 1.0) == pytest.approx(0.0)
    assert learning_rate("half_cosine", 2.0, 1.0) == pytest.approx(1.0)
    assert learning_rate("half_cosine", 1.0, 0.5) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert learning_rate("one_cycle", 1.0, 0.0) == pytest.approx(0.04)
    assert learning_rate("one_cycle", 1.0, 0.25) == pytest.approx(1.0)
    assert learning_rate("one_cycle", 1.0, 1.0) == pytest.approx(0.0)
    assert all(0 <= learning_rate(name, 1.0, t / 50) <= 1 for name in SCHEDULES for t in range(51))
    with pytest.raises(ValueError, match="schedule: got 'step'"):
        learning_rate("step", 1.0, 0.5)
    with pytest.raises(ValueError, match="progress"):
        learning_rate("cosine", 1.0, 1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: got 0"),
        ({"lr": 0.0}, "lr: got 0.0"),
        ({"optimizer": "lion"}, "optimizer: got 'lion'"),
        ({"shift": -1}, "shift: got -1"),
        ({"precision": "fp8"}, "precision: got 'fp8'"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


def test_wrong_sets_are_named() -> None:
    images, labels = coloured(6)
    with pytest.raises(TypeError, match=r"images: got torch\.float32"):
        fit(net(), images.float(), labels)
    with pytest.raises(TypeError, match=r"labels: got torch\.int64"):
        fit(net(), images, labels[:-1])
    with pytest.raises(ValueError, match="empty set"):
        fit(net(), images[:0], labels[:0])
