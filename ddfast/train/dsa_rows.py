"""Rows of parameters for `ddfast.ops.dsa`, float64 [n, 13], put together from operations of the field.

Start from `unchanged`, then set one geometric operation, then `mirror` (which acts before it), colours and cutout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast.ops.dsa import PARAMETERS

Rows = NDArray[np.float64]
_UNCHANGED = (0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def unchanged(count: int) -> Rows:
    """Rows that leave pictures as they are."""
    rows = np.empty((count, PARAMETERS))
    rows[:] = _UNCHANGED
    return rows


def colour(rows: Rows, values: NDArray[Any]) -> None:
    """Brightness, saturation and contrast of ``values`` [n, 3]."""
    rows[:, :3] = values


def crop(rows: Rows, values: NDArray[Any]) -> None:
    """Move the window by ``values`` [n, 2] whole pixels (down, right)."""
    rows[:, 5], rows[:, 8] = values[:, 0], values[:, 1]


def warp(rows: Rows, matrix: Any, size: tuple[int, int], *, align_corners: bool) -> None:
    """What ``affine_grid`` and ``grid_sample`` do with ``matrix``: four numbers or arrays [n], for (x, x), (x, y),
    (y, x) and (y, y), about the picture's centre, in the coordinates that ``align_corners`` names."""
    height, width = size
    xx, xy, yx, yy = matrix
    half_y, half_x = ((side - 1 if align_corners else side) / 2 for side in size)
    across = half_x / half_y if half_y else 0.0  # a single row or column is its own centre
    down = half_y / half_x if half_x else 0.0
    centre_y, centre_x = (height - 1) / 2, (width - 1) / 2
    rows[:, 3], rows[:, 4] = yy, yx * down
    rows[:, 5] = centre_y - rows[:, 3] * centre_y - rows[:, 4] * centre_x
    rows[:, 6], rows[:, 7] = xy * across, xx
    rows[:, 8] = centre_x - rows[:, 6] * centre_y - rows[:, 7] * centre_x


def rotation(angle: NDArray[Any]) -> Any:
    """The matrix for `warp` that turns by ``angle`` [n] in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    return cos, -sin, sin, cos


def mirror(rows: Rows, where: NDArray[Any], width: int) -> None:
    """Mirror left and right, before the geometric operation that is set, rows ``where`` (1, else 0) [n]."""
    rows[:, 6:9] *= 1 - 2 * where[:, None]
    rows[:, 8] += where * (width - 1)


def cutout(rows: Rows, values: NDArray[Any], size: tuple[int, int], share: float) -> None:
    """Hide a square of ``share`` of the sides (rounded) about ``values`` [n, 2] (row, column).

    Its rows and columns are clamped into the picture one by one: an edge row is hidden even when the square lies beyond
    the edge.
    """
    for axis, side in enumerate(size):
        length = int(side * share + 0.5)
        if length:
            low = values[:, axis] - length // 2
            rows[:, 9 + 2 * axis] = low.clip(0, side - 1)
            rows[:, 10 + 2 * axis] = (low + length - 1).clip(0, side - 1) + 1
