"""MTT's outer loop: one object that holds all state, so that it can be stopped after any iteration and go on alike."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast.methods.mtt.config import MTTConfig
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError, atomic_write_bytes, seeds
from ddfast.train import NonFiniteLossError
from ddfast.train.adjoint import InnerStep, match_trajectory
from ddfast.train.dsa import draw_dsa
from ddfast.train.trajectories import TrajectoryStore


@dataclass
class State:
    """Everything an iteration changes.

    ``images`` float32 [n, 3, S, S]; ``lr`` the student's rate; ``logits`` of learned labels [n, classes], or [n, 0];
    ``velocities`` of the three; ``average`` of the images; ``losses`` one an iteration.
    """

    images: Tensor
    lr: Tensor
    logits: Tensor
    velocities: list[Tensor]
    average: Tensor
    iteration: int = 0
    losses: list[float] = field(default_factory=list)
    tests: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


def fresh_state(images: Tensor, lr: float, logits: Tensor) -> State:
    """At the start."""
    rate = torch.tensor(lr, dtype=images.dtype, device=images.device)
    velocities = [torch.zeros_like(each) for each in (images, rate, logits)]
    return State(images.clone(), rate, logits.clone(), velocities, images.clone())


class Matching:
    """The loop over iterations; `advance` does one.

    Args:
        net: the students' and experts' architecture.
        store: finished experts.
        labels: int64 [n], classes of the images.
        config: the method's.
        state: to go on from.
        trainable: bool [n]; rows that are False never move (PDD's earlier stages).
    """

    def __init__(
        self, net: FlatConvNet, store: TrajectoryStore, labels: Tensor, config: MTTConfig, state: State,
        trainable: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.net, self.store, self.labels, self.config, self.state = net, store, labels, config, state
        self.trainable = trainable

    def advance(self) -> float:
        """One iteration; returns its loss.

        Raises:
            NonFiniteLossError: the loss or a gradient is not finite, or the learned rate is no longer positive; the
                state is that of the iteration before.
        """
        state, config = self.state, self.config
        expert, start = self._draw()
        device = state.images.device
        match = match_trajectory(
            self.net,
            self.store.snapshot(expert, start).to(device),
            self.store.snapshot(expert, start + config.expert_epochs).to(device),
            state.images,
            self.soft_labels() if config.soft_labels else self.labels,
            state.lr,
            self._steps(),
            memory=config.memory,
            precision=config.precision,
            trainable=self.trainable,
            label_gradient=config.soft_labels,
        )
        gradients = [match.images, match.lr, self._logit_gradient(match.labels)]
        rates = (config.lr_img, config.lr_lr, config.lr_label)
        loss = float(match.loss)
        velocities = [v * config.momentum + g for v, g in zip(state.velocities, gradients, strict=True)]
        images, lr, logits = (
            x - rate * v for x, rate, v in zip((state.images, state.lr, state.logits), rates, velocities, strict=True)
        )
        self._check(loss, images, float(lr), expert, start)
        state.images, state.lr, state.logits, state.velocities = images, lr, logits, velocities
        state.average = state.average.lerp(images, 1 - config.ema) if config.ema else images
        state.iteration += 1
        state.losses.append(loss)
        return loss

    def soft_labels(self) -> Tensor:
        """Learned labels as probabilities [n, classes]."""
        return self.state.logits.softmax(1)

    def targets(self) -> Tensor:
        """What students are trained with: learned labels where there are any, else classes."""
        return self.soft_labels() if self.config.soft_labels else self.labels

    def _draw(self) -> tuple[int, int]:
        """Experts in a new order each pass, the start epoch uniform."""
        config, number = self.config, self.state.iteration
        order = seeds.permutation(config.seed, "mtt/experts", number // len(self.store), len(self.store))
        bits = seeds.counter_bits(config.seed, "mtt/start", number)
        window = config.max_start_epoch - config.min_start_epoch
        start = config.min_start_epoch + int(np.ravel(seeds.integers(bits, window))[0])
        return int(order[number % len(self.store)]), start

    def _steps(self) -> list[InnerStep]:
        """Batches in a new order each pass over the set, from the last chunk on: a short one comes first."""
        config, count = self.config, len(self.labels)
        batch = min(config.batch_syn or count, count)
        steps: list[InnerStep] = []
        chunks: Sequence[Tensor] = ()
        for number in range(config.syn_steps):
            key = self.state.iteration * config.syn_steps + number
            if not chunks:
                chunks = torch.from_numpy(seeds.permutation(config.seed, "mtt/order", key, count)).split(batch)
            *chunks, index = chunks
            draw = None
            if config.dsa:
                size = (config.size, config.size)
                draw = draw_dsa(config.dsa, len(index), size, seed=config.seed, epoch=self.state.iteration, step=number,
                                stream="mtt/dsa")  # fmt: skip
            steps.append(InnerStep(index.to(self.labels.device), draw))
        return steps

    def _logit_gradient(self, gradient: Tensor | None) -> Tensor:
        """Through the softmax; zeros without learned labels."""
        if gradient is None:
            return torch.zeros_like(self.state.logits)
        y = self.soft_labels()
        return y * (gradient - (y * gradient).sum(1, keepdim=True))

    def _check(self, loss: float, images: Tensor, lr: float, expert: int, start: int) -> None:
        where = f"iteration {self.state.iteration + 1} (expert {expert}, start epoch {start})"
        kept = "; the state before it is kept. Start anew in another folder with"
        if not math.isfinite(loss) or not bool(torch.isfinite(images).all()):
            raise NonFiniteLossError(f"{where}: the matching loss became {loss}{kept} a lower lr_img or lr_teacher")
        if not lr > 0 or not math.isfinite(lr):
            raise NonFiniteLossError(
                f"{where}: the student's learning rate went from {float(self.state.lr):.3g} to {lr:.3g}, expected a "
                f"positive number{kept} a lower lr_lr"
            )


def save_state(path: Path, state: State) -> None:
    """Write atomically; `RunError` when the disk is full."""
    file = io.BytesIO()
    torch.save(vars(state), file)
    atomic_write_bytes(path, file.getvalue())


def load_state(path: Path, device: str | torch.device) -> State | None:
    """What `save_state` wrote, None where there is no file.

    Raises:
        RunError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        return State(**torch.load(path, map_location=device, weights_only=True))
    except (OSError, RuntimeError, EOFError, TypeError, pickle.UnpicklingError) as error:
        raise RunError(f"{path}: cannot be read as a checkpoint ({error}); remove it to start anew") from error
