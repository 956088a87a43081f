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
from numpy.typing import NDArray
from torch import Tensor

from ddfast import ops
from ddfast.runs import seeds
from ddfast.train import dsa_rows
from ddfast.train.dsa_rows import Rows

STRATEGY = "color_crop_cutout_flip_scale_rotate"
DIGITS = "color_crop_cutout_scale_rotate"  # a mirrored digit is another one
CROP, CUTOUT, SCALE, DEGREES = 0.125, 0.5, 1.2, 15.0
BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
Values = NDArray[np.float64]


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


def parse_strategy(strategy: str) -> tuple[str, ...]:
    """Operations of ``"color_crop_cutout"``; ValueError names an unknown one."""
    names = tuple(strategy.lower().split("_")) if strategy else ()
    unknown = [name for name in names if name not in PACKERS]
    if unknown or not names:
        raise ValueError(f"dsa: got {strategy!r}, expected names among {', '.join(PACKERS)}, joined by underscores")
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


def pack(draw: DSADraw, size: tuple[int, int]) -> Tensor:
    """The draw as rows of parameters for `ddfast.ops.dsa` on pictures of ``size``: float64 [n or 1, 13] (CPU).

    Raises:
        ValueError: an unknown operation.
    """
    if draw.op not in PACKERS:
        raise ValueError(f"draw: got operation {draw.op!r}, expected one of {', '.join(PACKERS)}")
    values = draw.values.double().cpu().numpy()
    rows = dsa_rows.unchanged(len(values))
    PACKERS[draw.op](rows, values, size)
    return torch.from_numpy(rows)


def apply_dsa(images: Tensor, draw: DSADraw) -> Tensor:
    """The batch [n, c, H, W] with the operation applied; same shape and dtype, differentiable in ``images``.

    Raises:
        ValueError: an unknown operation, or parameters for another number of pictures.
    """
    return ops.dsa(images, _fitting(draw, images))


def transposed_dsa(g: Tensor, draw: DSADraw | None) -> Tensor:
    """``A^T g`` [n, c, H, W] of the augmentation's linear part A: every operation is affine in the pixels."""
    return g if draw is None else ops.dsa_adjoint(g, _fitting(draw, g))


def _fitting(draw: DSADraw, images: Tensor) -> Tensor:
    params = pack(draw, (images.shape[2], images.shape[3]))
    if len(params) not in (1, len(images)):
        raise ValueError(f"draw: got parameters of {len(params)} pictures, expected {len(images)} or 1")
    return params.to(images.device, non_blocking=True)


def _pack_scale(rows: Rows, values: Values, size: tuple[int, int]) -> None:
    dsa_rows.warp(rows, (values[:, 0], 0, 0, values[:, 1]), size, align_corners=True)


def _pack_rotate(rows: Rows, values: Values, size: tuple[int, int]) -> None:
    dsa_rows.warp(rows, dsa_rows.rotation(values[:, 0]), size, align_corners=True)


PACKERS: dict[str, Callable[[Rows, Values, tuple[int, int]], None]] = {
    "color": lambda rows, values, size: dsa_rows.colour(rows, values),
    "crop": lambda rows, values, size: dsa_rows.crop(rows, values),
    "cutout": lambda rows, values, size: dsa_rows.cutout(rows, values, size, CUTOUT),
    "flip": lambda rows, values, size: dsa_rows.mirror(rows, values[:, 0] > 0.5, size[1]),
    "scale": _pack_scale,
    "rotate": _pack_rotate,
}


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
