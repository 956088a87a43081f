"""The two controls that a distilled set has to beat: random real pictures, as many, or as many bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddfast.data import Source, Stream, open_stream
from ddfast.data.squares import centre_squares
from ddfast.runs import seeds
from ddfast.store import ImageFormat, decode_image

_STREAM = "random subset"


@dataclass(frozen=True)
class Subset:
    """Real pictures: ``images`` uint8 [N, size, size, 3], ``labels`` int64 [N], ``bytes`` as stored, of which
    ``label_bytes`` are soft labels."""

    images: Tensor
    labels: Tensor
    bytes: int
    label_bytes: int = 0


def random_subset(
    source: Source,
    targets: Sequence[int],
    size: int,
    *,
    seed: int,
    image_format: ImageFormat | None,
    counts: Sequence[int] | None = None,
    budgets: Sequence[float] | None = None,
    label_bytes: int = 0,
) -> Subset:
    """Random real pictures, stored as the distilled images are.

    Each picture's largest centred square is resized to ``size``, written in ``image_format`` and read again, so that
    compression costs both sides the same. With ``counts`` a class gets that many pictures; with ``budgets`` as many,
    in the order of the draw, as its bytes pay for, and at least one; what is left over goes to the next class, so that
    all of them together miss the bytes by less than a picture.

    Args:
        source: the real set.
        targets: its label of each class.
        size: side in pixels.
        seed: of the draw; another seed, another subset.
        image_format: file format; None for raw pixels.
        counts: pictures per class.
        budgets: bytes per class; the alternative to ``counts``.
        label_bytes: of a picture's soft label, which counts as part of its bytes.

    Raises:
        ValueError: neither or both of counts and budgets, or a class without readable pictures.
    """
    if (counts is None) == (budgets is None):
        raise ValueError("counts, budgets: got both or neither, expected one of the two")
    stream = open_stream("threads", workers=0)
    images: list[Tensor] = []
    labels: list[int] = []
    spent, left = 0, 0.0
    for place, label in enumerate(targets):
        count = source.count(label) if counts is None else counts[place]
        budget = float("inf") if budgets is None else budgets[place] + left
        chosen, used = _draw(source, stream, label, size, seed, image_format, count, budget, label_bytes)
        if not chosen:
            raise ValueError(
                f"{source.name}: no readable picture of class {source.class_names[label]!r} for the control"
            )
        images += chosen
        labels += [place] * len(chosen)
        spent += used
        left = budget - used if budgets is not None else 0.0
    stream.close()
    return Subset(torch.stack(images), torch.tensor(labels, dtype=torch.int64), spent, label_bytes * len(images))


def _draw(
    source: Source,
    stream: Stream,
    label: int,
    size: int,
    seed: int,
    image_format: ImageFormat | None,
    count: int,
    budget: float,
    label_bytes: int,
) -> tuple[list[Tensor], int]:
    chosen: list[Tensor] = []
    used = 0
    for position in seeds.permutation(seed, _STREAM, label, source.count(label)).tolist():
        if len(chosen) == count:
            break
        for square in centre_squares(source, stream, label, np.array([position]), size):
            stored, cost = _stored(square, image_format)
            cost += label_bytes
            if chosen and used + cost > budget:
                return chosen, used
            chosen.append(stored)
            used += cost
    return chosen, used


def _stored(square: Tensor, image_format: ImageFormat | None) -> tuple[Tensor, int]:
    if image_format is None:
        return square, square.numel()
    data = image_format.encode(square.numpy())
    return torch.from_numpy(decode_image(data, "control picture").copy()), len(data)
