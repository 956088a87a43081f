"""The training loop that supervised and student training share: seeds, schedule, optimiser, watchfulness, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ddfast.runs.seeds import stream_key
from ddfast.train.schedules import SCHEDULES, learning_rate


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message names epoch, step, loss and learning rate."""


@dataclass(frozen=True)
class TrainConfig:
    """What the loop needs to know; ``lr`` is the peak of the schedule, ``shift`` is in pixels."""

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    shift: int = 0
    flip: bool = False
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("optimizer", self.optimizer, ("sgd", "adamw")),
            ("schedule", self.schedule, SCHEDULES),
            ("precision", self.precision, ("fp32", "bf16")),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        for name, count in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if count < 1:
                raise ValueError(f"{name}: got {count!r}, expected 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr!r}, expected a positive number")
        if self.shift < 0:
            raise ValueError(f"shift: got {self.shift!r}, expected a number of pixels, 0 or more")


@dataclass(frozen=True)
class TrainProgress:
    """State after a step: counts, last loss, learning rate, images/s and seconds left at that rate."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    images_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class TrainReport:
    """Mean loss of each epoch, steps taken, wall seconds, images/s."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0


Step = Callable[[Tensor, torch.Generator], Tensor]
OnProgress = Callable[[TrainProgress], None]


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """CPU generator of one epoch: a function of (seed, epoch) alone, so training can go on from any epoch."""
    low, high = stream_key(seed, f"train/{epoch}")
    return torch.Generator().manual_seed((high & 0x7FFFFFFF) << 32 | low)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum or AdamW; weight decay only on weights of two or more dimensions."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decayed = [value for name, value in named if "weight" in name and value.ndim > 1]
    plain = [value for name, value in named if not ("weight" in name and value.ndim > 1)]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.momentum > 0)


def run(model: nn.Module, count: int, config: TrainConfig, step: Step, on_progress: OnProgress | None) -> TrainReport:
    """Train for ``config.epochs`` passes over ``count`` samples.

    ``step(index, generator)`` gets int64 sample numbers [b] on the CPU and the epoch's generator, and returns a scalar
    loss. The global generator is seeded for the duration (dropout) and restored afterwards; the model ends in train
    mode.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; on a GPU noticed within 32 steps, so that steps need not wait.
    """
    if count < 1:
        raise ValueError(f"images: got {count} images, expected at least 1")
    optimizer = make_optimizer(model, config)
    device = next(model.parameters()).device
    steps = -(-count // config.batch_size)
    watch = 1 if device.type == "cpu" else 32
    begun, means = time.perf_counter(), []
    model.train()
    with _seeded(config.seed, device):
        for epoch in range(config.epochs):
            generator = epoch_generator(config.seed, epoch)
            order = torch.randperm(count, generator=generator)
            losses = torch.full((steps,), float("nan"), device=device)
            rates: list[float] = []
            for number, index in enumerate(order.split(config.batch_size)):
                rates.append(_step_rate(config, epoch, number, steps))
                for group in optimizer.param_groups:
                    group["lr"] = rates[-1]
                with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                    loss = step(index, generator)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses[number] = loss.detach()
                if (number + 1) % watch == 0 or number + 1 == steps:
                    _check(losses[: number + 1], rates, epoch)
                    if on_progress is not None:
                        done = epoch * count + min((number + 1) * config.batch_size, count)
                        on_progress(_progress(config, epoch, number, steps, losses, rates, done, count, begun))
            means.append(float(losses.mean()))
    seconds = time.perf_counter() - begun
    return TrainReport(means, steps * config.epochs, seconds, count * config.epochs / seconds)


def _step_rate(config: TrainConfig, epoch: int, number: int, steps: int) -> float:
    if config.schedule == "half_cosine":  # RDED steps it once an epoch
        return learning_rate(config.schedule, config.lr, epoch / config.epochs)
    return learning_rate(config.schedule, config.lr, (epoch * steps + number) / (config.epochs * steps))


def _check(losses: Tensor, rates: list[float], epoch: int) -> None:
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        step = int(bad[0])
        raise NonFiniteLossError(
            f"the loss became {float(losses[step])} in epoch {epoch + 1}, step {step + 1}, at learning rate "
            f"{rates[step]:.3g}; lower lr, or look for NaN in the images or the initial weights"
        )


def _progress(
    config: TrainConfig,
    epoch: int,
    number: int,
    steps: int,
    losses: Tensor,
    rates: list[float],
    done: int,
    count: int,
    begun: float,
) -> TrainProgress:
    seconds = time.perf_counter() - begun
    rate = done / max(seconds, 1e-9)
    left = (config.epochs * count - done) / rate if rate > 0 else math.inf
    loss = float(losses[number])
    return TrainProgress(epoch + 1, config.epochs, number + 1, steps, loss, rates[-1], seconds, rate, left)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(epoch_generator(seed, 0).initial_seed())
        yield
