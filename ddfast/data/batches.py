"""What streams are asked for and what they give back."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddfast._types import Normalization

Draw = Callable[[int, NDArray[np.int64], NDArray[np.int32]], NDArray[np.int32]]
"""``draw(label, positions [n], sizes int32 [n, 2]) -> boxes int32 [n, m, 4]``; pure, so grouping does not matter."""

Groups = Iterable[tuple[int, ArrayLike]]
"""(label, positions) pairs; an endless or slow iterator is fine, it is read only a few batches ahead."""

_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class StreamError(RuntimeError):
    """A sample could not be read, or its crops could not be made; the message names it."""


@dataclass(frozen=True)
class CropRequest:
    """``crops`` crops of every picture, each resized to ``size`` (height, width) and normalised.

    ``dtype`` is float32, float64, bfloat16 or float16; ``channels_last`` the memory format of the batch.
    """

    size: tuple[int, int]
    crops: int
    normalization: Normalization
    dtype: torch.dtype = torch.float32
    channels_last: bool = True

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: got {self.size!r}, expected (height, width) of at least 1 pixel")
        if self.crops < 1:
            raise ValueError(f"crops: got {self.crops!r}, expected at least 1")
        if self.dtype not in _DTYPES:
            raise ValueError(f"dtype: got {self.dtype}, expected float32, float64, bfloat16 or float16")

    def buffer(self, images: int, device: torch.device | str = "cpu", *, pinned: bool = False) -> Tensor:
        """An uninitialised batch for ``images`` pictures: [images * crops, 3, height, width]."""
        return torch.empty(
            (images * self.crops, 3, *self.size),
            dtype=self.dtype,
            device=device,
            pin_memory=pinned,
            memory_format=torch.channels_last if self.channels_last else torch.contiguous_format,
        )

    def buffer_bytes(self, images: int) -> int:
        return images * self.crops * 3 * self.size[0] * self.size[1] * self.dtype.itemsize


class Failure(NamedTuple):
    """A picture that could not be decoded; it is left out of its batch."""

    position: int
    sample_id: str
    reason: str


@dataclass
class CropBatch:
    """Crops of ``n`` pictures of one class; row ``i * m + j`` of ``crops`` is crop ``j`` of picture ``i``.

    ``positions`` int64 [n], ``sizes`` int32 [n, 2] (height, width), ``boxes`` int32 [n, m, 4] (top, left, height,
    width), ``crops`` [n * m, 3, h, w]. ``failures`` lists pictures left out, ``last`` marks the end of a group.
    """

    label: int
    positions: NDArray[np.int64]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.int32]
    crops: Tensor
    failures: list[Failure] = field(default_factory=list)
    last: bool = False


class BatchPlan(NamedTuple):
    """The pictures of one batch, before anything is read."""

    label: int
    positions: NDArray[np.int64]
    last: bool


def plan_batches(groups: Groups, batch_images: int) -> Iterator[BatchPlan]:
    """Cuts groups into batches of at most ``batch_images`` pictures; a batch never spans two groups.

    The last batch of a group has ``last=True``; an empty group gives one empty last batch.

    Raises:
        ValueError: ``batch_images`` below 1, or positions that are not one row of integers.
    """
    if batch_images < 1:
        raise ValueError(f"batch_images: got {batch_images!r}, expected at least 1")
    for label, given in groups:
        positions = np.asarray(given)
        if positions.ndim != 1 or (positions.size and not np.issubdtype(positions.dtype, np.integer)):
            raise ValueError(
                f"groups: positions of label {label} are {positions.dtype} {positions.shape}, expected integers [n]"
            )
        if operator.index(label) < 0 or positions.min(initial=0) < 0:
            least = min(operator.index(label), int(positions.min(initial=0)))
            raise ValueError(f"groups: got a label or position {least}, expected none below 0")
        positions = positions.astype(np.int64)
        starts = range(0, max(len(positions), 1), batch_images)
        for start in starts:
            yield BatchPlan(operator.index(label), positions[start : start + batch_images], start == starts[-1])


def check_boxes(boxes: NDArray[np.int32], sizes: NDArray[np.int32], crops: int) -> NDArray[np.int32]:
    """The boxes a `Draw` returned for pictures of these sizes, as contiguous int32 [images, crops, 4].

    Raises:
        ValueError: another shape, or a box that is empty or reaches out of its picture.
        TypeError: not integers.
    """
    array = np.asarray(boxes)
    if array.shape != (len(sizes), crops, 4):
        raise ValueError(f"draw: returned shape {array.shape}, expected ({len(sizes)}, {crops}, 4)")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"draw: returned dtype {array.dtype}, expected int32")
    corner, extent = array[..., :2], array[..., 2:]
    if (corner < 0).any() or (extent < 1).any() or (corner + extent > sizes[:, None]).any():
        raise ValueError("draw: returned a box that is empty or reaches out of its picture, (top, left, height, width)")
    return np.ascontiguousarray(array, dtype=np.int32)
