"""Made-up ceilings and records."""

from __future__ import annotations

from benchmarks.floor import Work, floor_of
from benchmarks.records import Check, Labels, Record, Spread, Timing

CEILINGS = {
    "fp32_flops": 100e9, "bf16_flops": 400e9, "copy_bytes": 10e9, "copy_rates": {"1000000": 50e9, "100000000": 10e9},
    "decode_per_byte": 7e-9, "decode_per_pixel": 1.5e-9, "crop_seconds": 4e-5, "encode_seconds": 1e-3, "note": "",
    "gpu": {"copy_bytes": 4e12, "fp32_flops": 50e12, "bf16_flops": 800e12},
}  # fmt: skip


def record(name: str = "cpp", seconds: float = 2e-3, group: str = "op a", **changes: object) -> Record:
    timing = Timing(3, 1, Spread(seconds * 1.1, seconds, 1e-5), Spread(seconds, seconds, 1e-5))
    work = Work(10, "crop", bytes=2e6, flops=1e8)
    labels = Labels(group, name, "op", "10 crops", "float32", name, **changes)  # type: ignore[arg-type]
    return Record(labels, timing, work, Check("max", 0.0, 1e-6), floor_of(work, CEILINGS))
