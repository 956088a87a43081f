"""Learning-rate schedules as pure functions of progress."""

from __future__ import annotations

import math

SCHEDULES = ("constant", "cosine", "one_cycle", "half_cosine")
MILESTONES = "milestones"


def learning_rate(schedule: str, base: float, progress: float, *, warmup: float = 0.25, start: float = 0.04) -> float:
    """Learning rate after a share ``progress`` in [0, 1] of the training.

    With t = progress:

    - ``constant``: base;
    - ``cosine``: base (1 + cos(pi t)) / 2, ends at 0;
    - ``one_cycle``: cosine from ``start * base`` up to base over the first ``warmup`` share, then cosine down to 0
      (Smith and Topin, "Super-Convergence", arXiv 1708.07120);
    - ``half_cosine``: base (1 + cos(pi t / 2)) / 2, ends at base / 2: RDED's smoothed schedule (arXiv 2312.03526).

    Args:
        schedule: one of ``SCHEDULES``.
        base: peak learning rate, > 0.
        progress: share of the training that is done, in [0, 1].
        warmup: share of ``one_cycle`` that rises, in (0, 1).
        start: first value of ``one_cycle`` as a share of ``base``, in [0, 1].

    Raises:
        ValueError: unknown schedule or progress outside [0, 1].
    """
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress: got {progress!r}, expected a share in [0, 1]")
    if schedule == "constant":
        return base
    if schedule == "cosine":
        return base * (1 + math.cos(math.pi * progress)) / 2
    if schedule == "half_cosine":
        return base * (1 + math.cos(math.pi * progress / 2)) / 2
    if schedule == "one_cycle":
        if progress < warmup:
            return base * (start + (1 - start) * (1 - math.cos(math.pi * progress / warmup)) / 2)
        return base * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup))) / 2
    raise ValueError(f"schedule: got {schedule!r}, expected one of {', '.join(SCHEDULES)}")


def milestone_rate(base: float, epoch: int, milestones: tuple[int, ...], *, factor: float = 0.1) -> float:
    """Learning rate of an epoch (from 0): ``base * factor ** (number of milestones <= epoch)``."""
    return base * factor ** sum(milestone <= epoch for milestone in milestones)
