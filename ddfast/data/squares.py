"""Whole pictures as centre squares of one side, for small sets that are trained on directly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast import ops
from ddfast.data.decode import DecodeError
from ddfast.data.sources import Source
from ddfast.data.streams import Stream, open_stream

_CHUNK = 64


def whole_images(source: Source, size: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Centre squares of the first ``per_class`` pictures of each class: uint8 [N, size, size, 3], labels int64 [N].

    Unreadable pictures are left out.
    """
    stream = open_stream("threads", workers=0)
    counts = [min(per_class, source.count(label)) for label in range(len(source.class_names))]
    images = torch.empty(sum(counts), size, size, 3, dtype=torch.uint8)  # parts that are joined would take twice that
    labels: list[int] = []
    for label, count in enumerate(counts):
        positions = np.arange(count)
        for start in range(0, len(positions), _CHUNK):
            part = centre_squares(source, stream, label, positions[start : start + _CHUNK], size)
            images[len(labels) : len(labels) + len(part)] = part
            labels += [label] * len(part)
    stream.close()
    return images[: len(labels)], torch.tensor(labels, dtype=torch.int64)


def centre_squares(source: Source, stream: Stream, label: int, positions: NDArray[np.int64], size: int) -> Tensor:
    """The largest centred square of each picture, resized (antialiased bilinear) and rounded to uint8.

    Args:
        source: the pictures.
        stream: decodes them.
        label, positions: which, positions int64 [n].
        size: side in pixels.

    Returns:
        uint8 [n, size, size, 3] in the order given; unreadable pictures are left out, so there may be fewer than n.
    """
    if len(positions) == 0:
        return torch.empty(0, size, size, 3, dtype=torch.uint8)
    try:
        pictures = stream.decode(source, label, positions)
    except DecodeError:
        if len(positions) == 1:
            return torch.empty(0, size, size, 3, dtype=torch.uint8)
        parts = [centre_squares(source, stream, label, positions[i : i + 1], size) for i in range(len(positions))]
        return torch.cat(parts)
    sizes = pictures.sizes
    side = sizes.min(dim=1, keepdim=True).values
    boxes = torch.cat([(sizes - side) // 2, side, side], dim=1).to(torch.int32)
    squares: Tensor = ops.mosaic(
        pictures.pixels,
        pictures.offsets,
        sizes,
        boxes,
        torch.arange(len(boxes), dtype=torch.int32),
        size=size,
        factor=1,
    )
    return squares
