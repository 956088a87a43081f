"""What is measured of a case: whether it is right, seconds over the rounds, ratios of runs in turns."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """Name of a correctness check, its error and the largest error allowed."""

    check: str
    error: float
    bound: float

    @property
    def passed(self) -> bool:
        """False for a NaN error too."""
        return self.error <= self.bound


@dataclass(frozen=True)
class Spread:
    """Seconds of one call over the rounds."""

    median: float
    min: float
    iqr: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """Of at least one round; the interquartile range of a single one is 0."""
        if len(seconds) < 2:
            return cls(seconds[0], seconds[0], 0.0)
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        return cls(statistics.median(seconds), min(seconds), high - low)


@dataclass(frozen=True)
class Ratio:
    """Time of this case over ddfast's, the two run in turns: median and quartiles over the rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, ratios: Sequence[float]) -> Ratio:
        """Of at least one round."""
        if len(ratios) < 2:
            return cls(ratios[0], ratios[0], ratios[0], 1)
        low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
        return cls(statistics.median(ratios), low, high, len(ratios))
