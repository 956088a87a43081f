"""Optimisers of the recipes, and moving averages of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.train.config import TrainConfig
from ddfast.train.schedules import MILESTONES, learning_rate, milestone_rate
from ddfast.train.stacked import Stacked


def make_optimizer(model: nn.Module, config: TrainConfig, *, capturable: bool = False) -> torch.optim.Optimizer:
    """SGD or AdamW; weight decay only on weights of two or more dimensions, unless ``config.decay_all``.

    A `Stacked` model whose ``rates`` differ is moved by each model's multiple of the step at the common rate: SGD and
    AdamW both move the weights by something proportional to the rate. ``capturable`` builds one whose step can be part
    of a CUDA graph: the learning rate is a tensor that `set_rate` fills.
    """
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    extra = 1 if isinstance(model, Stacked) else 0  # dimensions: a norm's weight [models, channels] is still a vector
    decayed = [value for name, value in named if config.decay_all or ("weight" in name and value.ndim > 1 + extra)]
    known = {id(value) for value in decayed}
    plain = [value for _, value in named if id(value) not in known]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    rate: float | Tensor = torch.tensor(config.lr, device=named[0][1].device) if capturable else config.lr
    if config.optimizer == "adamw":
        fast = {"capturable": True, "fused": True} if capturable else {}
        made: torch.optim.Optimizer = torch.optim.AdamW(groups, lr=rate, **fast)  # type: ignore[arg-type]
    else:
        nesterov = config.nesterov and config.momentum > 0
        fused = True if capturable else None
        made = torch.optim.SGD(groups, lr=rate, momentum=config.momentum, nesterov=nesterov, fused=fused)
    if isinstance(model, Stacked) and set(model.rates) != {1.0}:
        _scale_steps(made, model.rates)
    return made


def _scale_steps(optimizer: torch.optim.Optimizer, rates: list[float]) -> None:
    """After each step w <- w + r_k (w_new - w) for the parameters [models, ...] of model k."""
    values: list[Tensor] = [value for group in optimizer.param_groups for value in group["params"]]
    ratio = torch.tensor(rates, device=values[0].device)
    shaped = [ratio.to(value.dtype).view(-1, *[1] * (value.ndim - 1)) for value in values]
    before: list[Tensor] = []

    def keep(*_: Any) -> None:
        before[:] = [value.detach().clone() for value in values]

    @torch.no_grad()
    def scale(*_: Any) -> None:
        for value, old, factor in zip(values, before, shaped, strict=True):
            value.copy_(old + factor * (value - old))

    optimizer.register_step_pre_hook(keep)
    optimizer.register_step_post_hook(scale)


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
        return milestone_rate(config.lr, epoch, config.milestones, factor=config.drop)
    if config.schedule == "half_cosine":  # RDED steps it once an epoch
        return learning_rate(config.schedule, config.lr, epoch / config.epochs)
    return learning_rate(config.schedule, config.lr, (epoch * steps + step) / (config.epochs * steps))


@dataclass
class Gathered:
    """What an optimiser has gathered (momentum, second moments) for the next training of the same model; empty at
    first."""

    state: dict[Any, Any] = field(default_factory=dict)

    def give(self, optimizer: torch.optim.Optimizer) -> None:
        """To a new optimiser."""
        if self.state:
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": self.state, "param_groups": groups})

    def take(self, optimizer: torch.optim.Optimizer) -> None:
        """From one at its end."""
        self.state = optimizer.state_dict()["state"]


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
