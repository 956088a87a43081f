"""Made-up records."""

from __future__ import annotations

from benchmarks.records import Labels, Record, Timing
from ddfast.bench.floor import Work, floor_of
from ddfast.bench.measured import Check, Spread
from tests.bench.bench_helpers import CEILINGS


def record(name: str = "cpp", seconds: float = 2e-3, group: str = "op a", **changes: object) -> Record:
    timing = Timing(3, 1, Spread(seconds * 1.1, seconds, 1e-5), Spread(seconds, seconds, 1e-5))
    work = Work(10, "crop", bytes=2e6, flops=1e8)
    labels = Labels(group, name, "op", "10 crops", "float32", name, **changes)  # type: ignore[arg-type]
    return Record(labels, timing, work, Check("max", 0.0, 1e-6), floor_of(work, CEILINGS))
