"""Optimisers of the recipes, and moving averages of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ddfast.train.config import TrainConfig
from ddfast.train.schedules import MILESTONES, learning_rate, milestone_rate


def make_optimizer(model: nn.Module, config: TrainConfig, *, capturable: bool = False) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay only on weights of two or more dimensions, unless ``config.decay_all``.

    ``capturable`` builds one whose step can be part of a CUDA graph: the learning rate is a tensor that `set_rate`
    fills.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decayed = [value for name, value in named if config.decay_all or ("weight" in name and value.ndim > 1)]
    known = {id(value) for value in decayed}
    plain = [value for _, value in named if id(value) not in known]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    rate: float | Tensor = torch.tensor(config.lr, device=named[0][1].device) if capturable else config.lr
    if config.optimizer == "adamw":
        extra = {"capturable": True, "fused": True} if capturable else {}
        return torch.optim.AdamW(groups, lr=rate, **extra)  # type: ignore[arg-type]
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(
        groups, lr=rate, momentum=config.momentum, nesterov=nesterov, fused=True if capturable else None
    )


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group this learning rate, without waiting for the device."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def step_rate(config: TrainConfig, epoch: int, step: int, steps: int) -> float:
    """Learning rate of a step (from 0) of an epoch (from 0) of ``steps`` steps."""
    if config.schedule == MILESTONES:
        return milestone_rate(config.lr, epoch, config.milestones)
    if config.schedule == "half_cosine":  # RDED steps it once an epoch
        return learning_rate(config.schedule, config.lr, epoch / config.epochs)
    return learning_rate(config.schedule, config.lr, (epoch * steps + step) / (config.epochs * steps))


@torch.no_grad()
def reset_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Zero what the optimiser has gathered: SGD goes on as if it were new."""
    for state in optimizer.state.values():
        for value in state.values():
            if isinstance(value, Tensor):
                value.zero_()


class MovingAverage:
    """Exponential moving average of a model's parameters and floating-point buffers: s <- decay s + (1 - decay) w."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._live = [v for v in (*model.parameters(), *model.buffers()) if v.is_floating_point()]
        self.values = [value.detach().clone() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """After each step."""
        torch._foreach_lerp_(self.values, [v.detach() for v in self._live], 1 - self._decay)

    @torch.no_grad()
    def restore(self, values: list[Tensor]) -> None:
        """From a checkpoint."""
        for own, value in zip(self.values, values, strict=True):
            own.copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the average and the live weights."""
        for live, average in zip(self._live, self.values, strict=True):
            kept = live.detach().clone()
            live.detach().copy_(average)
            average.copy_(kept)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The model holds the average within."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
