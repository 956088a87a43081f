"""Interleaved rounds of two workers and what their ratios say."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

ROUND_SECONDS = 0.02
FEWEST_ROUNDS = 6  # below, no pair of order statistics covers the median with 95 %


class Runs(Protocol):
    """What is used of a worker."""

    def cpu_seconds(self, case: str, calls: int) -> float:
        """CPU seconds of ``calls`` calls."""


@dataclass(frozen=True)
class Measured:
    """Seconds of one call in each revision, median ratio HEAD / BASE and its 95 % interval."""

    name: str
    base: float
    head: float
    ratio: float
    low: float
    high: float

    def slower(self, threshold: float) -> bool:
        """Above the threshold, and not by noise."""
        return self.ratio > threshold and self.low > 1


def measure(name: str, base: Runs, head: Runs, rounds: int) -> Measured:
    """Runs ``rounds`` rounds of each in turns; a round of both has as many calls as fill some 20 ms of BASE."""
    warm = max(base.cpu_seconds(name, 3), head.cpu_seconds(name, 3)) / 3
    calls = max(1, min(20_000, round(ROUND_SECONDS / max(warm, 1e-7))))
    pairs = [(base.cpu_seconds(name, calls), head.cpu_seconds(name, calls)) for _ in range(rounds)]
    ratios = [after / max(before, 1e-9) for before, after in pairs]
    low, high = interval(ratios)
    before, after = (statistics.median(column) / calls for column in zip(*pairs, strict=True))
    return Measured(name, before, after, statistics.median(ratios), low, high)


def interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of order statistics that covers the median with at least this probability, whatever the distribution.

    Raises:
        ValueError: fewer values than that takes.
    """
    count, ordered = len(values), sorted(values)
    tail, rank = 0.0, 0  # rank values are cut off at each end
    while rank < count // 2:
        more = tail + math.comb(count, rank) / 2**count
        if 2 * more > 1 - confidence:
            break
        tail, rank = more, rank + 1
    if rank == 0:
        raise ValueError(f"values: got {count}, too few for an interval of {confidence:.0%}")
    return ordered[rank - 1], ordered[count - rank]


def table(found: Sequence[Measured], base: str, head: str, threshold: float) -> str:
    """One line a case."""
    width = max([len(case.name) for case in found] + [4])
    lines = [
        f"{base} against {head}, CPU time, allowed {threshold:.2f}",
        f"{'case':{width}s} {'BASE us':>10s} {'HEAD us':>10s} {'ratio':>7s}   95 % interval",
    ]
    for case in found:
        verdict = "   SLOWER" if case.slower(threshold) else ""
        lines.append(
            f"{case.name:{width}s} {1e6 * case.base:10.1f} {1e6 * case.head:10.1f} {case.ratio:7.3f}   "
            f"{case.low:.3f} to {case.high:.3f}{verdict}"
        )
    return "\n".join(lines)
