"""Random parameters of the transforms, drawn from counters: a draw depends on what it is for, not on when."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddfast.runs import seeds

CROP_STREAM = "crops"
MAX_ATTEMPTS = 10


def draw_rrc_boxes(
    seed: int,
    label: int,
    positions: ArrayLike,
    sizes: ArrayLike,
    crops: int,
    scale: tuple[float, float] = (0.08, 1.0),
) -> NDArray[np.int32]:
    """Square random-resized-crop boxes, ``crops`` for each picture.

    Up to ten attempts: ``u ~ U[scale)``, ``side = round(sqrt(u * H * W))`` (halves to even), accepted when
    ``0 < side <= min(H, W)``; then ``top`` and ``left`` are uniform integers in [0, H - side] and [0, W - side].
    After ten rejections: the centred square of side ``min(H, W)``. This is the distribution of torchvision's
    RandomResizedCrop with ratio (1, 1), drawn from a counter-based generator keyed by (seed, label, position, crop), so
    neither batching nor order nor the number of workers changes a box, and more crops keep the first ones.

    Args:
        seed: any non-negative integer.
        label: class of the pictures, in [0, 2**32).
        positions: integers [n], each picture's position within its class.
        sizes: integers [n, 2], (height, width) in pixels, at least 1.
        crops: boxes per picture, m >= 0.
        scale: smallest and largest share of the area, ``0 < low <= high``.

    Returns:
        int32 [n, m, 4]: (top, left, height, width) in pixels, height == width.

    Raises:
        ValueError: shapes that do not fit, sizes below 1, ``crops`` negative or ``scale`` not ascending and positive.
        TypeError: ``positions`` or ``sizes`` hold no integers.

    Source: crop sampling of RDED (Sun, Shi, Yu, Lin, CVPR 2024).
    """
    places, extents = _check(positions, sizes, crops, scale)
    bits = seeds.counter_bits(seed, CROP_STREAM, label, places[:, None], np.arange(crops), count=2 + MAX_ATTEMPTS)
    shorter = extents.min(axis=1, initial=0xFFFFFFFF)[:, None]
    area = (extents[:, 0] * extents[:, 1])[:, None, None]
    share = scale[0] + (scale[1] - scale[0]) * seeds.uniform(bits[..., 2:])
    sides = np.rint(np.sqrt(share * area))
    fits = (sides > 0) & (sides <= shorter[..., None])
    first = fits.argmax(axis=-1) + MAX_ATTEMPTS * np.arange(fits.shape[0] * crops).reshape(fits.shape[:2])
    accepted = fits.reshape(-1)[first]
    side = np.where(accepted, sides.reshape(-1)[first], shorter).astype(np.int64)[..., None]
    free = extents[:, None, :] - side
    boxes = np.empty((*accepted.shape, 4), dtype=np.int32)
    boxes[..., :2] = np.where(accepted[..., None], seeds.integers(bits[..., :2], free + 1), free // 2)
    boxes[..., 2:] = side
    return boxes


def _check(
    positions: ArrayLike, sizes: ArrayLike, crops: int, scale: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    places = _integers("positions", positions)
    extents = _integers("sizes", sizes)
    if places.ndim != 1:
        raise ValueError(f"positions: got shape {places.shape}, expected [n]")
    if extents.size == 0 and places.size == 0:
        extents = extents.reshape(0, 2)
    if extents.shape != (places.size, 2):
        raise ValueError(f"sizes: got shape {extents.shape}, expected ({places.size}, 2) as there are positions")
    if extents.size and extents.min() < 1:
        raise ValueError(f"sizes: got a side of {extents.min()} pixels, expected at least 1")
    if crops < 0:
        raise ValueError(f"crops: got {crops!r}, expected at least 0")
    low, high = scale
    if not (0 < low <= high and math.isfinite(high)):
        raise ValueError(f"scale: got {scale!r}, expected (low, high) with 0 < low <= high")
    return places, extents


def _integers(name: str, values: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: got dtype {array.dtype}, expected integers")
    return array.astype(np.int64)
