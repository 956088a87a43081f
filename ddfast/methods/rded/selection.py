"""Exact selection from inexact scores.

A crop's score is its cross-entropy ``loss = log(1 + exp(t))`` with ``t = logsumexp_{j != y} z_j - z_y``; ranking by
``t`` is ranking by ``loss``, but ``t`` keeps its resolution where the loss is tiny.  Every score computed at some
precision is an interval ``t +- delta``.  Only crops whose intervals leave the selection open are scored again one level
more precisely (bf16 or fp16 -> fp32 -> fp64), until nothing is open or the last level, taken as exact, is reached.  So
the selected crops are those of the last level, whatever batch size, engine or precision computed the first.

The selection is ordered: image ranks decide where in which mosaic a patch lands, so order counts as well as membership.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Rescore = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float64]]


@dataclass
class Level:
    """One precision: ``rescore(images, crops) -> t``, and the bound ``delta + relative * |t|`` on its error."""

    name: str
    delta: float
    rescore: Rescore | None = None
    relative: float = 0.0
    scored: int = 0
    worst: float = 0.0  # largest |t - t of the next level| seen
    widened: int = 0


@dataclass(frozen=True)
class Selection:
    """``images`` int64 [k] in rank order (best first), ``crops`` int64 [k] the best crop of each, ``t`` float64 [k]."""

    images: NDArray[np.int64]
    crops: NDArray[np.int64]
    t: NDArray[np.float64]
    changed: int  # positions at which the first level alone would have chosen otherwise


@dataclass
class _Scores:
    t: NDArray[np.float64]  # [n, m]
    level: NDArray[np.int64]  # [n, m]
    before: dict[int, NDArray[np.float64]] = field(default_factory=dict)


def margin_to_loss(t: NDArray[np.floating]) -> NDArray[np.float64]:
    """``loss = log1p(exp(t))`` without overflow."""
    return np.logaddexp(0.0, np.asarray(t, dtype=np.float64))


def plain_order(t: NDArray[np.float64], keep: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Best crop of each row (ties: lowest index) and the ``keep`` best rows (ties: lowest row)."""
    crops = t.argmin(axis=1)
    images = np.argsort(t[np.arange(len(t)), crops], kind="stable")[:keep]
    return images, crops[images]


def open_crops(t: NDArray[np.float64], delta: NDArray[np.float64], keep: int) -> NDArray[np.bool_]:
    """Crops [n, m] whose intervals ``t +- delta`` leave the ordered best ``keep`` rows undecided."""
    low, high = t - delta, t + delta
    upper, lower = high.min(axis=1), low.min(axis=1)
    threshold = np.sort(upper)[min(keep, len(upper)) - 1]
    candidate = lower <= threshold
    contender = (low <= upper[:, None]) & candidate[:, None]
    undecided = contender.sum(axis=1) > 1
    undecided |= _overlaps(lower, upper, candidate)
    result: NDArray[np.bool_] = contender & undecided[:, None]
    return result


def _overlaps(
    lower: NDArray[np.floating], upper: NDArray[np.floating], candidate: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which candidates' intervals touch another candidate's."""
    rows = np.flatnonzero(candidate)
    order = rows[np.argsort(lower[rows], kind="stable")]
    touched = np.zeros(len(lower), dtype=bool)
    reach = np.maximum.accumulate(upper[order])
    hit = lower[order][1:] <= reach[:-1]
    touched[order[1:][hit]] = True
    # the earlier partner of each overlap: any row whose upper end passes the next row's lower end
    touched[order[:-1][upper[order][:-1] >= lower[order][1:]]] = True
    return touched


def select(
    t: NDArray[np.float64], keep: int, levels: Sequence[Level], *, finer: NDArray[np.bool_] | None = None
) -> Selection:
    """The ordered best ``keep`` images and their best crops, as the last level would choose them.

    Args:
        t: float64 [images, crops], scores of the first level.
        keep: how many images to keep, at most the number of rows.
        levels: precisions from the first to the exact one; the last one's ``delta`` counts as 0. Each ``delta`` bounds
            the distance to the next level, so a score is off from the exact one by the sum of those from its level on.
        finer: bool [images, crops], scores that are of the second level already.

    Raises:
        ValueError: more to keep than there are rows, or a NaN score.
    """
    if keep > len(t):
        raise ValueError(f"keep: got {keep}, expected at most the number of images ({len(t)})")
    if np.isnan(t).any():
        raise ValueError("t: has NaN, expected numbers (the observer's outputs are broken)")
    first_images, first_crops = plain_order(t, keep)
    levels[0].scored += t.size
    started = np.zeros(t.shape, dtype=np.int64) if finer is None else finer.astype(np.int64)
    scores = _Scores(t.copy(), started)
    while True:
        delta = _bounds(scores, levels)
        open_ = open_crops(scores.t, delta, keep) & (scores.level < len(levels) - 1)
        if not open_.any():
            break
        lowest = scores.level[open_].min()
        _promote(scores, levels, open_ & (scores.level == lowest), int(lowest))
    images, crops = plain_order(scores.t, keep)
    changed = int(((images != first_images) | (crops != first_crops)).sum())
    return Selection(images, crops, scores.t[images, crops], changed)


def _bounds(scores: _Scores, levels: Sequence[Level]) -> NDArray[np.float64]:
    fixed, relative = (
        np.cumsum([0.0, *(part(level) for level in levels[-2::-1])])[::-1][scores.level]
        for part in (lambda level: level.delta, lambda level: level.relative)
    )
    size = np.where(np.isfinite(scores.t), np.abs(scores.t), 0.0)
    bounds: NDArray[np.float64] = fixed + relative * size
    return bounds


def _promote(scores: _Scores, levels: Sequence[Level], which: NDArray[np.bool_], level: int) -> None:
    images, crops = np.nonzero(which)
    target = levels[level + 1]
    if target.rescore is None:
        raise ValueError(f"levels: {target.name} has no rescore function")
    t = target.rescore(images, crops)
    target.scored += len(images)
    if np.isnan(t).any():
        raise ValueError(f"{target.name}: the observer's scores of {int(np.isnan(t).sum())} crops are NaN")
    both = np.isfinite(t) & np.isfinite(scores.t[images, crops])
    worst = float(np.abs(t - scores.t[images, crops])[both].max(initial=0.0))
    known = np.abs(scores.t[images, crops])[both].max(initial=0.0) * levels[level].relative
    scores.t[images, crops] = t
    scores.level[images, crops] = level + 1
    levels[level].worst = max(levels[level].worst, worst)
    if worst > levels[level].delta + known:
        # The bound was too tight: widen it, and the caller's loop looks at everything again.
        levels[level].delta = 2 * worst
        levels[level].widened += 1
