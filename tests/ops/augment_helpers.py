"""Sets of small pictures, awkward draws and the float64 truth for the tests of augment_batch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.ops.ragged_helpers import picture

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORM = {"mean": MEAN, "std": STD}


@dataclass
class Draws:
    """Arguments of augment_batch after the set."""

    index: Tensor
    columns: Tensor
    rows: Tensor
    boxes: Tensor
    flip: Tensor
    shift: Tensor
    partner: Tensor
    mix_box: Tensor
    share: float = 1.0

    def args(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def take(self, rows: Tensor) -> Draws:
        """Only these samples; partners must be drawn anew."""
        per_sample = {f.name: getattr(self, f.name)[rows] for f in fields(self)[:7]}
        return replace(self, **per_sample)


def pictures(count: int, height: int, width: int) -> Tensor:
    return torch.from_numpy(np.stack([picture(height, width, seed) for seed in range(count)]))


def draws(
    count: int,
    images: Tensor,
    factor: int = 1,
    *,
    size: tuple[int, int],
    crop: bool = True,
    shift: int = 0,
    seed: int = 0,
) -> Draws:
    """Random draws of every kind; a third of the samples is not shuffled, and partners are no permutation."""
    rng = np.random.default_rng(seed)
    number, height, width = images.shape[:3]
    strips = (
        np.stack([[rng.permutation(factor) for _ in range(2)] for _ in range(count)])
        if count
        else np.zeros((0, 2, factor))
    )
    strips[::3] = np.arange(factor)
    boxes = np.tile([0, 0, height, width], (count, 1))
    for box in boxes[1:] if crop else ():
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        box[:] = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    top, left = rng.integers(0, size[0]), rng.integers(0, size[1])
    mix_box = [top, left, rng.integers(1, size[0] - top + 1), rng.integers(1, size[1] - left + 1)]
    return Draws(
        torch.from_numpy(rng.integers(0, number, count)),
        torch.from_numpy(strips[:, 0].astype(np.int32)),
        torch.from_numpy(strips[:, 1].astype(np.int32)),
        torch.from_numpy(boxes.astype(np.int32)),
        torch.from_numpy(rng.random(count) < 0.5),
        torch.from_numpy(rng.integers(-shift, shift + 1, (count, 2)).astype(np.int32)),
        torch.from_numpy(rng.integers(0, count, count) if count else np.zeros(0, np.int64)),
        torch.tensor(mix_box, dtype=torch.int32),
        float(rng.random()),
    )


def truth(images: Tensor, draw: Draws, size: tuple[int, int], mixup: bool = False) -> Tensor:
    """Written out once more in float64, pixel lists instead of index tensors."""
    own = torch.stack([_view(images, draw, i, size) for i in range(len(draw.index))])
    other = own[draw.partner]
    if mixup:
        return draw.share * own + (1 - draw.share) * other
    top, left, height, width = draw.mix_box.tolist()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return torch.where(mask, other, own)


def _view(images: Tensor, draw: Draws, i: int, size: tuple[int, int]) -> Tensor:
    whole = images[int(draw.index[i])].double()
    down, right = draw.shift[i].tolist()
    moved = torch.zeros_like(whole)
    height, width = whole.shape[:2]
    for y in range(max(down, 0), min(height + down, height)):
        begin, end = max(right, 0), min(width + right, width)
        moved[y, begin:end] = whole[y - down, begin - right : end - right]
    strips = moved.chunk(draw.columns.shape[1], dim=1)
    moved = torch.cat([strips[k] for k in draw.columns[i].tolist()], dim=1)
    strips = moved.chunk(draw.rows.shape[1], dim=0)
    moved = torch.cat([strips[k] for k in draw.rows[i].tolist()], dim=0)
    top, left, height, width = draw.boxes[i].tolist()
    crop = moved[top : top + height, left : left + width].permute(2, 0, 1)[None] / 255
    small = F.interpolate(crop, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    small = small.flip(2) if draw.flip[i] else small
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (MEAN, STD))
    return (small - mean) / std
