"""What a training step minimises, in two parts, so that the second can be compiled or captured as a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One step's samples: ``index`` int64 [b] on the CPU; epoch and step of the epoch from 0."""

    index: Tensor
    epoch: int
    step: int


@dataclass(frozen=True)
class Objective:
    """A loss over batches.

    Attributes:
        prepare: draws and makes what the loss needs of a batch: tensors on the model's device, views first.
        loss: of these tensors, a scalar, or [models] where several are trained at once; runs the model. It must not
            wait for the device.
        order: samples of an epoch, int64 [count]; None for `ddfast.train.views.epoch_order`.
        models: how many losses there are; 0 for a scalar.
    """

    prepare: Callable[[Batch], tuple[Tensor, ...]]
    loss: Callable[..., Tensor]
    order: Callable[[int], Tensor] | None = None
    models: int = 0


Step = Callable[[Tensor, int, int], Tensor]


def whole_step(step: Step) -> Objective:
    """An objective of one piece: ``step(index, epoch, number)`` returns the loss. It cannot be captured."""
    held: list[Batch] = []

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        held[:] = [batch]
        return ()

    return Objective(prepare, lambda: step(held[0].index, held[0].epoch, held[0].step))
