"""Pictures of a class as squares, with where they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast import ops
from ddfast.data import DecodeError, Source, Stream

_AT_ONCE = 16


@dataclass
class Squares:
    """Readable pictures of one class: ``positions``, ``images`` uint8 [S, S, 3], ``boxes`` in source pixels."""

    positions: list[int] = field(default_factory=list)
    images: list[Tensor] = field(default_factory=list)
    boxes: list[tuple[int, ...]] = field(default_factory=list)
    failures: list[tuple[str, str]] = field(default_factory=list)


def square_boxes(sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The largest centred square of each picture, int32 [n, 4] (top, left, height, width) of sizes [n, 2]."""
    side = sizes.min(axis=1, keepdims=True)
    return np.concatenate([(sizes - side) // 2, side, side], axis=1).astype(np.int32)


def draw_squares(_label: int, _positions: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """`square_boxes` as a stream wants it, one crop a picture."""
    return square_boxes(np.asarray(sizes)).reshape(len(sizes), 1, 4)


def take(source: Source, stream: Stream, label: int, order: NDArray[np.int64], count: int, size: int) -> Squares:
    """The first ``count`` readable pictures of ``order``; fewer if there are not as many."""
    found = Squares()
    rest = iter(order.tolist())
    while len(found.images) < count:
        wanted = list(islice(rest, min(_AT_ONCE, count - len(found.images))))
        if not wanted:
            break
        for part in _cut(source, stream, label, wanted, size):
            found.positions += part.positions
            found.images += part.images
            found.boxes += part.boxes
            found.failures += part.failures
    return found


def _cut(source: Source, stream: Stream, label: int, positions: list[int], size: int) -> Iterator[Squares]:
    try:
        pictures = stream.decode(source, label, np.array(positions))
    except DecodeError as error:
        if len(positions) == 1:
            yield Squares(failures=[(error.sample_id, error.reason)])
            return
        for position in positions:
            yield from _cut(source, stream, label, [position], size)
        return
    boxes = square_boxes(pictures.sizes.numpy())
    images = ops.mosaic(
        pictures.pixels, pictures.offsets, pictures.sizes, torch.from_numpy(boxes),
        torch.arange(len(boxes), dtype=torch.int32), size=size, factor=1,
    )  # fmt: skip
    yield Squares(list(positions), list(images), [tuple(box) for box in boxes.tolist()])
