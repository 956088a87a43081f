"""IDC's loop: gradients of real pictures and of decoded images matched class by class, the network trained on real
pictures in between (Kim et al., ICML 2022, arXiv 2205.14959)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast._types import Normalization
from ddfast.runs import seeds
from ddfast.store.formation import Formation
from ddfast.train.adjoint.classwise import make_class_step, mean_gradients
from ddfast.train.adjoint.step import float32
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.config import NonFiniteLossError
from ddfast.train.flat_student import fresh_theta
from ddfast.train.idc_augment import MATCHING, apply_idc, draw_idc
from ddfast.train.matching.protocol import MatchingData
from ddfast.train.mixed import MixedRecipe, mixed_step

METRICS = ("mse", "l1")
_NUMBERS = 1 << 25  # of gradients that are alive at a time, at most
# Pictures of 32 pixels that derivatives are taken of at a time, fewer of larger ones; on a CPU larger parts are no
# faster (measured).
_PART = {"cpu": 64}
_PICTURES = 2048
_FEWEST = 8


@dataclass(frozen=True)
class IDCSettings:
    """Of the loop.

    An iteration is one pass over the classes and one update of the network; a new network begins every ``inner_loop``
    iterations, with ``early`` epochs on the real pictures first. ``lr_img`` is the rate as it is applied. ``metric`` is
    "mse", the sum of squared differences, or "l1", that of absolute ones. ``batch_real`` and ``batch_syn`` are real
    pictures and at most so many decoded images of a class; ``n_data`` pictures are passed over in an update, with
    ``net``; 0 leaves the network as it is. ``stream`` begins the names of all random streams.

    Raises:
        ValueError: a value out of range.
    """

    iterations: int = 200_000
    inner_loop: int = 100
    metric: str = "mse"
    lr_img: float = 5e-3
    momentum: float = 0.5
    augment: str = MATCHING
    batch_real: int = 64
    batch_syn: int = 128
    n_data: int = 2000
    early: int = 0
    net: MixedRecipe = field(default_factory=MixedRecipe)
    precision: str = "fp32"
    seed: int = 0
    stream: str = "idc"

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"metric: got {self.metric!r}, expected one of {', '.join(METRICS)}")
        for name in ("iterations", "inner_loop", "batch_real", "batch_syn"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        for name in ("n_data", "early"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 0 or more")


@dataclass
class State:
    """Everything an iteration changes: images in [0, 1] before they are clamped, their velocity, the network's theta
    and velocity ([0] before the first iteration)."""

    images: Tensor
    velocity: Tensor
    theta: Tensor
    net_velocity: Tensor
    iteration: int = 0


class IDCMatcher:
    """A `ddfast.train.matching.Matcher`.

    Only gradients of convolutions are matched. An image moves in every step of a pass, as with one
    ``torch.optim.SGD`` over all images that steps class after class: where another class is matched its gradient is
    zero, but its momentum is not.

    Args:
        data: real pictures, normalised; ``frozen`` are stored images in [0, 1], which are decoded and matched together
            with those of their class.
        images: where to start, [classes * n, c, H, W] in [0, 1].
        labels: int64, their classes.
        formation: how images are decoded.
        normalization: of the space of ``data``.
        settings: of the loop.

    Raises:
        ValueError: images of another shape than the pictures, or a class without pictures or images.
    """

    def __init__(
        self, data: MatchingData, images: Tensor, labels: Tensor, formation: Formation, normalization: Normalization,
        settings: IDCSettings,
    ) -> None:  # fmt: skip
        self.data, self.labels, self.formation, self.settings = data, labels, formation, settings
        if images.shape[1:] != data.images.shape[1:]:
            raise ValueError(
                f"images: got {list(images.shape[1:])}, the real pictures are {list(data.images.shape[1:])}"
            )
        self.mean, self.std = (
            images.new_tensor(value)[: images.shape[1], None, None] for value in (normalization.mean, normalization.std)
        )
        self.frozen = data.frozen.to(images)
        classes = range(data.net.num_classes)
        self.own, self.old, self.real = (
            [torch.nonzero(each == c)[:, 0] for c in classes] for each in (labels, data.frozen_labels, data.labels)
        )
        for c in classes:
            if not len(self.own[c]) or not len(self.real[c]):
                raise ValueError(
                    f"labels: class {c} has {len(self.own[c])} images and {len(self.real[c])} real pictures, expected "
                    "1 or more of both"
                )
        shapes = data.net.shapes
        mask = [torch.full((math.prod(s),), float(len(s) == 4)) for s in shapes]
        self.matched = torch.cat(mask).to(images)
        self.class_step = make_class_step(data.net, settings.precision)
        self.step = make_step(data.net, settings.precision)
        empty = images.new_empty(0)
        self.state = State(images.clone(), torch.zeros_like(images), empty, empty)

    @property
    def iterations(self) -> int:
        """In all."""
        return self.settings.iterations

    @property
    def iteration(self) -> int:
        """Done."""
        return self.state.iteration

    def advance(self) -> float:
        """One pass over the classes and one update of the network; returns the mean loss of a class.

        Raises:
            NonFiniteLossError: the loss or an image is not finite; the state is that of the iteration before.
        """
        before, settings = self.state, self.settings
        state = State(before.images.clone(), before.velocity.clone(), before.theta.clone(),
                      before.net_velocity.clone(), before.iteration)  # fmt: skip
        with float32(settings.precision), torch.no_grad():
            if state.iteration % settings.inner_loop == 0:
                self._begin(state)
            loss = sum(float(self._match(state, group)) for group in self._groups()) / len(self.own)
            if not math.isfinite(loss) or not bool(torch.isfinite(state.images).all()):
                raise NonFiniteLossError(
                    f"iteration {state.iteration + 1}: the matching loss became {loss}; the state before it is kept. "
                    "Start anew in another folder with a lower lr_img or lr_net"
                )
            self._train(state, self._update_batches(), self._first_batch(state.iteration))
        state.iteration += 1
        self.state = state
        return loss

    def state_dict(self) -> dict[str, Any]:
        """See `ddfast.train.matching.Matcher`."""
        return dict(vars(self.state))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `ddfast.train.matching.Matcher`."""
        like = self.state.images
        tensors = {name: state[name].to(like) for name in ("images", "velocity", "theta", "net_velocity")}
        self.state = State(**tensors, iteration=int(state["iteration"]))

    def stored(self) -> tuple[Tensor, Tensor]:
        """Images [n, c, H, W] in [0, 1] before they are decoded, and their classes."""
        return self.state.images.clamp(0, 1), self.labels

    def student_set(self) -> tuple[Tensor, Tensor]:
        """Decoded and normalised images and their classes, frozen ones first."""
        formation = self.student_formation
        images, labels = [], []
        for stored, classes in ((self.frozen, self.data.frozen_labels), self.stored()):
            if len(stored):
                images.append(self._normalised(formation.decode(stored)))
                labels.append(classes[formation.sources(len(stored)).to(classes.device)])
        return torch.cat(images), torch.cat(labels)

    @property
    def student_formation(self) -> Formation:
        """How students get the images: a bound is for matching alone."""
        return Formation(self.formation.factor, "single") if self.formation.kind == "bound" else self.formation

    def learned_lr(self) -> None:
        """IDC learns none."""

    def notes(self) -> dict[str, Any]:
        """Entries of the manifest."""
        return {"formation": self.student_formation.as_json()}

    def _begin(self, state: State) -> None:
        """A new network, trained on real pictures if asked for; images back into [0, 1]."""
        settings, net, starts = self.settings, self.data.net, self.data.starts
        number = state.iteration // settings.inner_loop
        if starts is None:
            theta = fresh_theta(net, settings.seed, f"{settings.stream}/init {number}")
        else:
            theta = starts[number % len(starts)].clone()
        state.theta = theta.to(state.images)
        state.net_velocity = torch.zeros_like(state.theta)
        count = settings.early * self._epoch_batches()
        self._train(state, count, self._first_batch(state.iteration) - count)
        state.images.clamp_(0, 1)

    def _groups(self) -> list[list[int]]:
        """Classes that are matched at a time: they do not depend on each other."""
        size = max(1, min(self._limit() // max(self._decoded()), _NUMBERS // self.data.net.size))
        return [list(range(c, min(c + size, len(self.own)))) for c in range(0, len(self.own), size)]

    def _decoded(self) -> list[int]:
        """Images of each class in a pass."""
        formation, most = self.formation, self.settings.batch_syn
        return [
            min(len(formation.sources(len(old) + len(own))), most) for old, own in zip(self.old, self.own, strict=True)
        ]

    def _limit(self) -> int:
        count = _PART.get(self.state.images.device.type, _PICTURES)
        return max(count * 32**2 // max(self.data.net.input_size, 32) ** 2, min(count, _FEWEST))

    def _match(self, state: State, group: list[int]) -> Tensor:
        """The steps of some classes; returns the sum of their losses."""
        theta = state.theta
        for c in group:
            self._drift(state, c, c)
        leaves = [state.images[self.own[c]].requires_grad_() for c in group]
        real, images, chosen = [], [], []
        with torch.enable_grad():
            for c, leaf in zip(group, leaves, strict=True):
                x, y, trained = self._class_batches(state, c, leaf)
                real.append(x)
                images.append(y)
                chosen.append(trained)
            x = torch.cat(images)
        sizes = [len(each) for each in images]
        want = mean_gradients(
            self.class_step, theta, torch.cat(real), self._targets(group, [len(each) for each in real]),
            [len(each) for each in real], limit=None if self.data.net.norm == "batch" else self._limit(),
        )  # fmt: skip
        _, found, tape = self.class_step.first(theta, x.detach(), self._targets(group, sizes), sizes)
        away = found.sub_(want).mul_(self.matched)
        loss = away.square().sum() if self.settings.metric == "mse" else away.abs().sum()
        direction = away.mul_(2) if self.settings.metric == "mse" else away.sign_()
        rows = torch.nonzero(torch.cat(chosen))[:, 0]
        if len(rows):  # none where the sample holds frozen images alone
            wanted = self.class_step.second_images(theta, direction, tape, rows=None if len(rows) == len(x) else rows)
            with torch.enable_grad():
                x = x[rows]
            gradients = torch.autograd.grad(x, leaves, wanted, allow_unused=True, materialize_grads=True)
        else:
            gradients = tuple(torch.zeros_like(leaf) for leaf in leaves)
        for c, gradient in zip(group, gradients, strict=True):
            self._move(state, c, gradient)
            self._drift(state, c, len(self.own) - 1 - c)
        return loss

    def _class_batches(self, state: State, c: int, leaf: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Real pictures and decoded images of a class with one augmentation, and which of the latter can move."""
        settings, number = self.settings, state.iteration
        stored = torch.cat([self.frozen[self.old[c]], leaf])
        images = self._normalised(self.formation.decode(stored))
        trained = (self.formation.sources(len(stored)) >= len(self.old[c])).to(leaf.device)
        if len(images) > settings.batch_syn:
            order = seeds.permutation(settings.seed, f"{settings.stream}/decoded {c}", number, len(images))
            kept = torch.from_numpy(np.sort(order[: settings.batch_syn])).to(leaf.device)
            images, trained = images[kept], trained[kept]
        real = self.data.images[self._real_rows(c, number)]
        if settings.augment:
            draw = draw_idc(
                settings.augment, 1, (leaf.shape[2], leaf.shape[3]), seed=settings.seed, epoch=number, step=c,
                siamese=True, stream=f"{settings.stream}/match",
            )  # fmt: skip
            with torch.no_grad():
                real = apply_idc(real, draw)
            images = apply_idc(images, draw)
        return real, images, trained

    def _real_rows(self, c: int, number: int) -> Tensor:
        """Batches of a class's pictures in a new order each pass over them; a short rest is left out."""
        rows = self.real[c]
        size = min(self.settings.batch_real, len(rows))
        epoch, place = divmod(number, len(rows) // size)
        order = _order(self.settings.seed, f"{self.settings.stream}/real {c}", epoch, len(rows))
        return rows[order[place * size : (place + 1) * size].to(rows.device)]

    def _targets(self, group: list[int], sizes: list[int]) -> Tensor:
        return torch.tensor(group).repeat_interleave(torch.tensor(sizes)).to(self.labels.device)

    def _move(self, state: State, c: int, gradient: Tensor) -> None:
        """SGD of a class's images where it is matched."""
        settings, rows = self.settings, self.own[c]
        velocity = state.velocity[rows] * settings.momentum + gradient
        state.velocity[rows] = velocity
        state.images[rows] -= settings.lr_img * velocity

    def _drift(self, state: State, c: int, steps: int) -> None:
        """What momentum alone does in so many steps of other classes."""
        momentum, rows = self.settings.momentum, self.own[c]
        decay = momentum**steps
        way = sum(momentum**k for k in range(1, steps + 1))
        velocity = state.velocity[rows]
        state.images[rows] -= self.settings.lr_img * way * velocity
        state.velocity[rows] = velocity * decay

    def _train(self, state: State, count: int, first: int) -> None:
        """``count`` batches of real pictures, of a sequence that goes through all of them in a new order each time."""
        settings, data = self.settings, self.data
        batches = self._epoch_batches()
        for number in range(first, first + count):
            epoch, place = divmod(number, batches)
            order = _order(settings.seed, f"{settings.stream}/net", epoch, len(data.images))
            index = order[place * settings.net.batch_size : (place + 1) * settings.net.batch_size]
            index = index.to(data.images.device)
            mixed_step(
                self.step, data.net, state.theta, state.net_velocity, data.images[index], data.labels[index],
                settings.net, seed=settings.seed, stream=f"{settings.stream}/net", number=number,
            )  # fmt: skip

    def _epoch_batches(self) -> int:
        return -(-len(self.data.images) // self.settings.net.batch_size)

    def _update_batches(self) -> int:
        return min(-(-self.settings.n_data // self.settings.net.batch_size), self._epoch_batches())

    def _first_batch(self, iteration: int) -> int:
        """Number of an iteration's first batch; those of ``early`` epochs come before."""
        settings = self.settings
        begun = iteration // settings.inner_loop + 1
        return begun * settings.early * self._epoch_batches() + iteration * self._update_batches()

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


@lru_cache(maxsize=256)
def _order(seed: int, stream: str, epoch: int, count: int) -> Tensor:
    return torch.from_numpy(seeds.permutation(seed, stream, epoch, count))
