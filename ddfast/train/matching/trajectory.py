"""MTT's outer loop: one object that holds all state, so that it can be stopped after any iteration and go on alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast.nets.flat_net import FlatNet
from ddfast.runs import seeds
from ddfast.train.adjoint import InnerStep, MatchGraphs
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import STRATEGY, draw_dsa
from ddfast.train.trajectories import TrajectoryStore


@dataclass(frozen=True)
class TrajectorySettings:
    """Of the loop; the names are those of MTT's options. ``stream`` begins the names of all random streams."""

    iterations: int = 5000
    syn_steps: int = 50
    expert_epochs: int = 2
    min_start_epoch: int = 0
    max_start_epoch: int = 2
    batch_syn: int | None = None
    lr_img: float = 100.0
    lr_lr: float = 1e-7
    lr_teacher: float = 0.01
    lr_label: float = 2.0
    momentum: float = 0.5
    ema: float = 0.0
    dsa: str = STRATEGY
    memory: str = "store"
    precision: str = "fp32"
    seed: int = 0
    stream: str = "mtt"


@dataclass
class State:
    """Everything an iteration changes.

    ``images`` float32 [n, 3, S, S]; ``lr`` the student's rate; ``logits`` of learned labels [n, classes], or [n, 0];
    ``velocities`` of the three; ``average`` of the images.
    """

    images: Tensor
    lr: Tensor
    logits: Tensor
    velocities: list[Tensor]
    average: Tensor
    iteration: int = 0


class TrajectoryMatcher:
    """A `ddfast.train.matching.Matcher`: the loop over iterations of MTT (Cazenavette et al., CVPR 2022, arXiv
    2203.11932), and of a stage of PDD above it (Chen et al., ICLR 2024, arXiv 2310.06982).

    Args:
        net: the students' and experts' architecture.
        store: finished experts.
        settings: of the loop. ``batch_syn`` None means as many images a step as ``images`` has, whatever is frozen.
        images: float32 [n, 3, S, S], where to start.
        labels: int64 [n], their classes.
        logits: [n, classes], to learn labels too, from these logits on.
        frozen, frozen_labels: images [m, 3, S, S] and classes of earlier stages; batches are drawn from both, but these
            never move.
        notes: for the manifest.

    Raises:
        ValueError: learned labels with frozen images.
    """

    def __init__(
        self, net: FlatNet, store: TrajectoryStore, settings: TrajectorySettings, images: Tensor, labels: Tensor,
        *, logits: Tensor | None = None, frozen: Tensor | None = None, frozen_labels: Tensor | None = None,
        notes: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.net, self.store, self.settings, self.labels = net, store, settings, labels
        self.frozen = images[:0] if frozen is None else frozen.to(images)
        self.frozen_labels = labels[:0] if frozen_labels is None else frozen_labels.to(labels)
        self.learns_labels = logits is not None
        if self.learns_labels and len(self.frozen):
            raise ValueError("logits: learned labels do not go with frozen images, whose classes are kept alone")
        rate = torch.tensor(settings.lr_teacher, dtype=images.dtype, device=images.device)
        logits = images.new_zeros(len(images), 0) if logits is None else logits.clone()
        velocities = [torch.zeros_like(each) for each in (images, rate, logits)]
        self.state = State(images.clone(), rate, logits, velocities, images.clone())
        self.match = MatchGraphs(
            net, memory=settings.memory, precision=settings.precision, label_gradient=self.learns_labels
        )
        self._notes = dict(notes or {})

    @property
    def iterations(self) -> int:
        """In all."""
        return self.settings.iterations

    @property
    def iteration(self) -> int:
        """Done."""
        return self.state.iteration

    def advance(self) -> float:
        """One iteration; returns its loss.

        Raises:
            NonFiniteLossError: the loss or a gradient is not finite, or the learned rate is no longer positive; the
                state is that of the iteration before.
        """
        state, config = self.state, self.settings
        expert, start = self._draw()
        device = state.images.device
        count = len(self.frozen)
        labels = self.soft_labels() if self.learns_labels else torch.cat([self.frozen_labels, self.labels])
        match = self.match(
            self.store.snapshot(expert, start).to(state.images),
            self.store.snapshot(expert, start + config.expert_epochs).to(state.images),
            torch.cat([self.frozen, state.images]),
            labels,
            state.lr,
            self._steps(),
            trainable=torch.arange(count + len(self.labels), device=device) >= count if count else None,
        )
        gradients = [match.images[count:], match.lr, self._logit_gradient(match.labels)]
        rates = (config.lr_img, config.lr_lr, config.lr_label)
        loss = float(match.loss)
        velocities = [v * config.momentum + g for v, g in zip(state.velocities, gradients, strict=True)]
        images, lr, logits = (
            x - rate * v for x, rate, v in zip((state.images, state.lr, state.logits), rates, velocities, strict=True)
        )
        self._check(loss, images, float(lr), logits, expert, start)
        average = state.average.lerp(images, 1 - config.ema) if config.ema else images
        self.state = State(images, lr, logits, velocities, average, state.iteration + 1)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """See `ddfast.train.matching.Matcher`."""
        return dict(vars(self.state))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ddfast.train.matching.Matcher`."""
        like = self.state.images
        velocities = [v.to(like) for v in state["velocities"]]
        tensors = {name: state[name].to(like) for name in ("images", "lr", "logits", "average")}
        self.state = State(**tensors, velocities=velocities, iteration=int(state["iteration"]))

    def stored(self) -> tuple[Tensor, Tensor]:
        """The images as they are evaluated and kept, and their classes."""
        return self.state.average, self.labels

    def student_set(self) -> tuple[Tensor, Tensor]:
        """Frozen images and these, with classes, or learned labels as probabilities."""
        targets = self.soft_labels() if self.learns_labels else torch.cat([self.frozen_labels, self.labels])
        return torch.cat([self.frozen, self.state.average]), targets

    def learned_lr(self) -> float:
        """The students' rate."""
        return float(self.state.lr)

    def extras(self) -> dict[str, Tensor]:
        """Further tensors of the distilled set."""
        return {"soft_logits": self.state.logits} if self.learns_labels else {}

    def notes(self) -> dict[str, Any]:
        """Entries of the manifest."""
        return dict(self._notes)

    def starts(self) -> list[Tensor]:
        """Initial weights of the experts."""
        return [self.store.snapshot(number, 0) for number in range(len(self.store))]

    def soft_labels(self) -> Tensor:
        """Learned labels as probabilities [n, classes]."""
        return self.state.logits.softmax(1)

    def _draw(self) -> tuple[int, int]:
        """Experts in a new order each pass, the start epoch uniform."""
        config, number = self.settings, self.state.iteration
        order = seeds.permutation(config.seed, f"{config.stream}/experts", number // len(self.store), len(self.store))
        bits = seeds.counter_bits(config.seed, f"{config.stream}/start", number)
        window = config.max_start_epoch - config.min_start_epoch
        start = config.min_start_epoch + int(np.ravel(seeds.integers(bits, window))[0])
        return int(order[number % len(self.store)]), start

    def _steps(self) -> list[InnerStep]:
        """Batches in a new order each pass over all images, from the last chunk on: a short one comes first."""
        config, count = self.settings, len(self.frozen) + len(self.labels)
        batch = min(config.batch_syn or len(self.labels), count)
        steps: list[InnerStep] = []
        chunks: Sequence[Tensor] = ()
        for number in range(config.syn_steps):
            key = self.state.iteration * config.syn_steps + number
            if not chunks:
                order = seeds.permutation(config.seed, f"{config.stream}/order", key, count)
                chunks = torch.from_numpy(order).split(batch)
            *chunks, index = chunks
            draw = None
            if config.dsa:
                size = (self.net.input_size, self.net.input_size)
                draw = draw_dsa(config.dsa, len(index), size, seed=config.seed, epoch=self.state.iteration, step=number,
                                stream=f"{config.stream}/dsa")  # fmt: skip
            steps.append(InnerStep(index, draw))
        return steps

    def _logit_gradient(self, gradient: Tensor | None) -> Tensor:
        """Through the softmax; zeros without learned labels."""
        if gradient is None:
            return torch.zeros_like(self.state.logits)
        y = self.soft_labels()
        return y * (gradient - (y * gradient).sum(1, keepdim=True))

    def _check(self, loss: float, images: Tensor, lr: float, logits: Tensor, expert: int, start: int) -> None:
        where = f"iteration {self.state.iteration + 1} (expert {expert}, start epoch {start})"
        kept = "; the state before it is kept. Start anew in another folder with"
        if not math.isfinite(loss) or not bool(torch.isfinite(images).all()):
            raise NonFiniteLossError(f"{where}: the matching loss became {loss}{kept} a lower lr_img or lr_teacher")
        if not lr > 0 or not math.isfinite(lr):
            raise NonFiniteLossError(
                f"{where}: the student's learning rate went from {float(self.state.lr):.3g} to {lr:.3g}, expected a "
                f"positive number{kept} a lower lr_lr"
            )
        if not bool(torch.isfinite(logits).all()):
            raise NonFiniteLossError(f"{where}: the learned labels are not finite{kept} a lower lr_label")
