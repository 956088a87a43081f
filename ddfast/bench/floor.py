"""The least time a piece of work can take on this machine, and "x of the limit": measured time over that floor.

    memory     = bytes / copy rate                     the rate of the smallest cache the working set fits in
    arithmetic = flops / (peak of the dtype * cores)
    decode     = (a * JPEG bytes + b * pixels) / cores a, b fitted to JPEGs at start

Decoding and arithmetic run on the same cores and add up; moving memory overlaps with them. The work is that of the
*job*: a baseline that computes more than the job needs has the same floor and a larger x.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16", "fp32": "fp32", "bf16": "bf16"}


@dataclass(frozen=True)
class Work:
    """What one call has to do.

    ``items`` of ``unit`` come out; ``bytes`` is what must be read plus written once, ``flops`` the arithmetic of the
    job (a fused multiply-add counts 2), in ``precision`` fp32 or bf16. ``jpeg_bytes`` and ``jpeg_pixels`` must be
    decoded first. ``cores`` CPU cores may be used; on a GPU it is ignored.
    """

    items: int
    unit: str
    bytes: float = 0.0
    flops: float = 0.0
    precision: str = "fp32"
    jpeg_bytes: float = 0.0
    jpeg_pixels: float = 0.0
    cores: int = 1

    def __post_init__(self) -> None:
        if self.items < 1 or self.cores < 1:
            raise ValueError(f"items, cores: got {self.items}, {self.cores}, expected at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision: got {self.precision!r}, expected fp32 or bf16")


@dataclass(frozen=True)
class Floor:
    """Seconds, and the resource that needs them: memory, arithmetic or decode."""

    seconds: float
    binding: str


def copy_rate(rates: Mapping[str, float], footprint: float) -> float:
    """Bytes/s of the fastest measured copy at least as large as ``footprint``; of the largest copy beyond all.

    ``rates`` maps bytes moved by a copy to its rate.
    """
    sizes = sorted(int(size) for size in rates)
    large_enough = [size for size in sizes if size >= footprint] or sizes[-1:]
    return max(rates[str(size)] for size in large_enough)


def floor_of(work: Work, ceilings: Mapping[str, Any], device: str = "cpu") -> Floor | None:
    """Floor of one call from the ``ceilings`` of :func:`ddfast.bench.ceilings.as_dict`; None where none is known."""
    if device == "cuda":
        gpu = ceilings.get("gpu")
        if not gpu:
            return None
        busy = {"memory": work.bytes / gpu["copy_bytes"], "arithmetic": work.flops / gpu[f"{work.precision}_flops"]}
        return _largest(busy)
    arithmetic = work.flops / (ceilings[f"{work.precision}_flops"] * work.cores)
    decode = ceilings["decode_per_byte"] * work.jpeg_bytes + ceilings["decode_per_pixel"] * work.jpeg_pixels
    decode /= work.cores
    memory = work.bytes / (copy_rate(ceilings["copy_rates"], work.bytes) * work.cores)
    cores = Floor(arithmetic + decode, "decode" if decode > arithmetic else "arithmetic")
    return max(cores, Floor(memory, "memory"), key=lambda each: each.seconds) if cores.seconds + memory > 0 else None


def _largest(busy: Mapping[str, float]) -> Floor | None:
    binding = max(busy, key=lambda name: busy[name])
    return Floor(busy[binding], binding) if busy[binding] > 0 else None
