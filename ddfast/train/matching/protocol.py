"""What the driver of the matching methods, and progressive distillation above it, need of any of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from ddfast.data.resident import Pictures
from ddfast.nets.flat_net import FlatNet


class Starts(Protocol):
    """Networks by number, such as the rows of a tensor [K, P]."""

    def __len__(self) -> int:
        """K."""

    def __getitem__(self, number: int, /) -> Tensor:
        """theta, float32 [P]."""


@dataclass
class MatchingData:
    """Real pictures and, in a stage of progressive distillation (PDD), what the earlier stages left.

    Attributes:
        net: the architecture that is matched on.
        images: real pictures in the space students are trained in, float32 [N, c, H, W] on the device; or bytes that
            give such rows (`ddfast.data.resident.Resident`).
        labels: int64 [N].
        frozen: distilled images of earlier stages as their matchers' `Matcher.stored` gave them, [m, c, H, W], m >= 0;
            they take part in every matching step and never move.
        frozen_labels: int64 [m].
        starts: float32 [K, P], networks to start from, trained on the frozen images; None for fresh random ones. Take
            ``starts[i % len(starts)]`` in iteration i: it may be a tensor, or train each network when it is asked for.
    """

    net: FlatNet
    images: Pictures
    labels: Tensor
    frozen: Tensor
    frozen_labels: Tensor
    starts: Starts | None = None


class Matcher(Protocol):
    """One distillation in progress: `advance` until ``iteration == iterations``.

    Everything that `advance` changes is in `state_dict`, so that a run can be stopped after any iteration and goes on
    to identical numbers; draws depend on (seed, iteration) alone.
    """

    @property
    def iterations(self) -> int:
        """In all; a plain attribute will do."""

    @property
    def iteration(self) -> int:
        """Done so far; a plain attribute will do."""

    def advance(self) -> float:
        """One outer iteration; returns its loss.

        Raises:
            ddfast.train.NonFiniteLossError: the loss or an image is not finite; the state is that before the call.
        """

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, such as ``torch.load(weights_only=True)`` accepts."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""

    def stored(self) -> tuple[Tensor, Tensor]:
        """This distillation's own images as the method keeps them, [n, c, H, W], and their classes, int64 [n]."""

    def student_set(self) -> tuple[Tensor, Tensor]:
        """What students are trained on, earlier stages first: images in the students' space, and classes or
        probabilities."""

    def learned_lr(self) -> float | None:
        """The students' learning rate where the method learns one."""
