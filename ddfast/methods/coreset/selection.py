"""Which pictures of a class: greedy choices over features float32 [n, d], computed in float64, ties by lowest index.

Distances are summed from differences row by row, so equal features have equal distances wherever they stand: pictures
that occur twice are true ties.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.float32]
Picks = tuple[NDArray[np.int64], NDArray[np.float64]]
_ROWS = 256  # rows in float64 at a time


def normalized(features: Features) -> Features:
    """Each row divided by its Euclidean length; rows of zeros stay."""
    length = np.sqrt(squared_distances(features, np.zeros(features.shape[1])))
    length[length == 0] = 1.0
    out: Features = np.empty_like(features)
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        out[rows] = features[rows].astype(np.float64) / length[rows, None]
    return out


def herding(features: Features, count: int) -> Picks:
    """Pick t brings the mean of the t picks nearest to the mean of all: argmin_x |mu - (sum_{s<t} f_s + f_x) / t|.

    Args:
        features: float32 [n, d].
        count: how many, at most n; no row is taken twice.

    Returns:
        Rows int64 [count] in the order of the picks, and the distance float64 [count] that each left.

    Source: Welling, "Herding dynamical weights to learn", ICML 2009; in this form Rebuffi et al., "iCaRL", CVPR 2017.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    total = np.zeros_like(mean)
    free = np.ones(len(features), dtype=bool)
    picks, left = np.empty(count, dtype=np.int64), np.empty(count)
    for step in range(count):
        # |mu - (total + f) / t| = |(t mu - total) - f| / t
        squared = squared_distances(features, (step + 1) * mean - total)
        picks[step] = chosen = int(np.where(free, squared, np.inf).argmin())
        left[step] = np.sqrt(squared[chosen]) / (step + 1)
        free[chosen] = False
        total += features[chosen]
    return picks, left


def k_center(features: Features, count: int) -> Picks:
    """The row nearest to the mean of all, then always the row farthest from its nearest pick.

    Args:
        features: float32 [n, d].
        count: how many, at most n; no row is taken twice.

    Returns:
        Rows int64 [count] in the order of the picks, and the distance float64 [count] of each to the nearest pick
        before it (the first: to the mean).

    Source: greedy k-center of Gonzalez (1985), as in Sener & Savarese, "Active learning for CNNs: a core-set approach",
    ICLR 2018.
    """
    nearest = squared_distances(features, features.mean(axis=0, dtype=np.float64))
    chosen = int(nearest.argmin())
    picks, at = np.empty(count, dtype=np.int64), np.empty(count)
    picks[0], at[0] = chosen, np.sqrt(nearest[chosen])
    free = np.ones(len(features), dtype=bool)
    free[chosen] = False
    nearest = np.full(len(features), np.inf)
    for step in range(1, count):
        nearest = np.minimum(nearest, squared_distances(features, features[chosen]))
        picks[step] = chosen = int(np.where(free, nearest, -1.0).argmax())
        at[step] = np.sqrt(nearest[chosen])
        free[chosen] = False
    return picks, at


def squared_distances(features: Features, point: NDArray[np.floating]) -> NDArray[np.float64]:
    """float64 [n] from each row to ``point`` [d]."""
    target = np.asarray(point, dtype=np.float64)
    out = np.empty(len(features))
    for start in range(0, len(features), _ROWS):
        rows = slice(start, start + _ROWS)
        away = features[rows].astype(np.float64)
        away -= target
        np.square(away, out=away)
        out[rows] = away.sum(axis=1)
    return out
