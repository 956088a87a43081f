"""Differentiable Siamese augmentation (Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation",
ICML 2021, arXiv 2102.08259), which DC, DSA, MTT and their kin use in matching and in evaluation.

One operation is drawn for a whole batch, its parameters for each picture. Every operation is affine in the pixels of a
normalised batch and differentiable with respect to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddfast.runs import seeds

STRATEGY = "color_crop_cutout_flip_scale_rotate"
CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15.0
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5


@dataclass(frozen=True)
class DSADraw:
    """One operation and its parameters, float32 [n, k] (CPU), or [1, k] for the same on every picture.

    ========  =  =======================================================================================
    color     3  addend of the brightness, factor of the saturation, factor of the contrast
    crop      2  whole pixels (down, right) by which the window moves
    cutout    2  whole pixels (row, column) of the centre of the square
    flip      1  1 to mirror left and right, else 0
    scale     2  factors of the sampling grid along x and y; above 1 the picture shrinks
    rotate    1  angle in radians
    ========  =  =======================================================================================
    """

    op: str
    values: Tensor

    def to(self, device: torch.device) -> DSADraw:
        """The same on ``device``."""
        return DSADraw(self.op, self.values.to(device, non_blocking=True))


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """Operations of ``"color_crop_cutout"``; ValueError names an unknown one."""
    names = tuple(strategy.lower().split("_")) if strategy else ()
    unknown = [name for name in names if name not in _OPERATIONS]
    if unknown or not names:
        raise ValueError(f"dsa: got {strategy!r}, expected names among {', '.join(_OPERATIONS)}, joined by underscores")
    return names


def draw_dsa(
    strategy: str,
    count: int,
    size: tuple[int, int],
    *,
    seed: int,
    epoch: int = 0,
    step: int = 0,
    siamese: bool = False,
    stream: str = "dsa",
) -> DSADraw:
    """Draw for one batch: a function of (stream, seed, epoch, step) alone.

    With u uniform in [0, 1) anew for each use: color (u - 0.5, 2 u, u + 0.5); crop integers in [-s, s] with s = 1/8 of
    the side, rounded; cutout centre integers in [0, side] (side - 1 for a square of odd side), the square's side half
    of the picture's, rounded; flip with probability 1/2; scale uniform in [1/1.2, 1.2]; rotate within 15 degrees.

    Args:
        strategy: operations joined by underscores; one of them is drawn.
        count: pictures n.
        size: (height, width) of the pictures.
        seed, epoch, step: counters, from 0.
        siamese: one set of parameters for all pictures, as matching needs.
        stream: name of the random stream; batches that must differ take different ones.

    Raises:
        ValueError: an unknown operation.
    """
    names = parse_strategy(strategy)
    rows = 1 if siamese else count
    bits = seeds.counter_bits(seed, stream, epoch, step, np.arange(rows + 1), count=3)
    op = names[int(seeds.integers(bits[0, 0], len(names)))]
    return DSADraw(op, torch.from_numpy(_PARAMETERS[op](bits[1:], *size).astype(np.float32)))


def apply_dsa(images: Tensor, draw: DSADraw) -> Tensor:
    """The batch [n, c, H, W] with the operation applied; same shape and dtype, differentiable in ``images``.

    Raises:
        ValueError: an unknown operation, or parameters for another number of pictures.
    """
    if draw.op not in _OPERATIONS:
        raise ValueError(f"draw: got operation {draw.op!r}, expected one of {', '.join(_OPERATIONS)}")
    if len(draw.values) not in (1, len(images)):
        raise ValueError(f"draw: got parameters of {len(draw.values)} pictures, expected {len(images)} or 1")
    values = draw.to(images.device).values
    return _OPERATIONS[draw.op](images, values.expand(len(images), -1))


def transposed_dsa(g: Tensor, draw: DSADraw | None) -> Tensor:
    """``A^T g`` [n, c, H, W] of the augmentation's linear part A: every operation is affine in the pixels."""
    if draw is None:
        return g
    with torch.enable_grad():
        x = torch.zeros_like(g).requires_grad_()
        return torch.autograd.grad(apply_dsa(x, draw), x, g)[0]


def _color(x: Tensor, values: Tensor) -> Tensor:
    brightness, saturation, contrast = (each[:, None, None, None].to(x.dtype) for each in values.unbind(1))
    x = x + brightness
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * contrast + mean


def _crop(x: Tensor, values: Tensor) -> Tensor:
    rows, row_in = _window(x.shape[2], values[:, 0])
    columns, column_in = _window(x.shape[3], values[:, 1])
    picture = torch.arange(len(x), device=x.device)[:, None, None]
    inside = (row_in[:, :, None] & column_in[:, None, :])[:, None]
    moved = x[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    return torch.where(inside, moved, 0)


def _window(side: int, offset: Tensor) -> tuple[Tensor, Tensor]:
    source = torch.arange(side, device=offset.device) + offset[:, None].long()
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _cutout(x: Tensor, values: Tensor) -> Tensor:
    hidden = [_covered(side, values[:, axis]) for axis, side in enumerate(x.shape[2:])]
    return torch.where((hidden[0][:, :, None] & hidden[1][:, None, :])[:, None], 0, x)


def _covered(side: int, centre: Tensor) -> Tensor:
    """Rows of the square, its indices clamped into the picture one by one: an edge row is hidden even when the square
    lies beyond the edge."""
    length = int(side * CUTOUT + 0.5)
    at = torch.arange(side, device=centre.device)
    low = (centre.long() - length // 2).clamp(0, side - 1)[:, None]
    high = (centre.long() - length // 2 + length - 1).clamp(0, side - 1)[:, None]
    return (at >= low) & (at <= high) if length else torch.zeros(len(centre), side, dtype=torch.bool, device=at.device)


def _flip(x: Tensor, values: Tensor) -> Tensor:
    return torch.where(values[:, 0, None, None, None] > 0.5, x.flip(3), x)


def _scale(x: Tensor, values: Tensor) -> Tensor:
    zero = torch.zeros_like(values[:, 0])
    return _warp(x, torch.stack([values[:, 0], zero, zero, zero, values[:, 1], zero], 1))


def _rotate(x: Tensor, values: Tensor) -> Tensor:
    cos, sin, zero = values[:, 0].cos(), values[:, 0].sin(), torch.zeros_like(values[:, 0])
    return _warp(x, torch.stack([cos, -sin, zero, sin, cos, zero], 1))


def _warp(x: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix.view(-1, 2, 3).to(x.dtype), list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, align_corners=True)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "color": _color, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate,
}  # fmt: skip


def _draw_color(bits: np.ndarray, _height: int, _width: int) -> np.ndarray:
    u = seeds.uniform(bits)
    ranges = np.array([BRIGHTNESS, SATURATION, 1.0]), np.array([-0.5 * BRIGHTNESS, 0.0, CONTRAST])
    values: np.ndarray = u * ranges[0] + ranges[1]
    return values


def _draw_crop(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    reach = [int(side * CROP + 0.5) for side in (height, width)]
    values: np.ndarray = _integers(bits, [2 * each + 1 for each in reach]) - np.array(reach)
    return values


def _draw_cutout(bits: np.ndarray, height: int, width: int) -> np.ndarray:
    return _integers(bits, [side + (1 - int(side * CUTOUT + 0.5) % 2) for side in (height, width)])


def _draw_flip(bits: np.ndarray, _height: int, _width: int) -> np.ndarray:
    return _integers(bits[:, :1], [2])


def _draw_scale(bits: np.ndarray, _height: int, _width: int) -> np.ndarray:
    values: np.ndarray = 1 / SCALE + (SCALE - 1 / SCALE) * seeds.uniform(bits[:, :2])
    return values


def _draw_rotate(bits: np.ndarray, _height: int, _width: int) -> np.ndarray:
    values: np.ndarray = (seeds.uniform(bits[:, :1]) - 0.5) * 2 * math.radians(DEGREES)
    return values


def _integers(bits: np.ndarray, limits: Sequence[int]) -> np.ndarray:
    return seeds.integers(bits[:, : len(limits)], np.array(limits))


_PARAMETERS: dict[str, Callable[[np.ndarray, int, int], np.ndarray]] = {
    "color": _draw_color, "crop": _draw_crop, "cutout": _draw_cutout, "flip": _draw_flip, "scale": _draw_scale,
    "rotate": _draw_rotate,
}  # fmt: skip
