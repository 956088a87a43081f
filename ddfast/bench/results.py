"""What became of a case, as it stands in ``bench.json``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ddfast.bench.floor import Floor
from ddfast.bench.measured import Check, Ratio


@dataclass(frozen=True)
class Result:
    """One case. ``reason`` says why it failed and is empty otherwise; what failed its check has no times.

    ``seconds`` and ``rival_seconds`` are medians of one call that makes ``items`` of ``unit``; ``over`` is the rival's
    time over ours, of runs in turns.
    """

    name: str
    device: str
    shape: str = ""
    reason: str = ""
    check: Check | None = None
    items: int = 0
    unit: str = ""
    seconds: float | None = None
    floor: Floor | None = None
    rival: str = ""
    rival_seconds: float | None = None
    over: Ratio | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        """Wrong, or could not be run."""
        return bool(self.reason)

    @property
    def x_of_limit(self) -> float | None:
        """Seconds over the floor."""
        return self.seconds / self.floor.seconds if self.seconds and self.floor else None

    @property
    def rate(self) -> float | None:
        """Items a second."""
        return self.items / self.seconds if self.seconds else None

    def as_dict(self) -> dict[str, Any]:
        """For the JSON file."""
        return {
            **asdict(self),
            "status": "failed" if self.failed else "measured",
            "rate": self.rate,
            "x_of_limit": self.x_of_limit,
        }


def wrong(who: str, check: Check) -> str:
    """The reason of a failed check."""
    return f"{who} is wrong: {check.check} is {check.error:.3g}, allowed {check.bound:.3g}"
