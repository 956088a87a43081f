"""Seconds a CUDA callable takes on the device: events around each round, cold L2 cache, rotated inputs, medians.

Wall clocks see the launch, not the kernel; a second run on the same inputs finds them in the L2 cache; one input set
may favour one branch. So every round takes the next input set after the cache has been flushed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch


class Event(Protocol):
    """What is used of ``torch.cuda.Event``."""

    def record(self) -> None:
        """Marks this point of the stream."""

    def elapsed_time(self, end: Any) -> float:
        """Milliseconds from this event to ``end``."""


class Device:
    """Events, synchronisation and cache flush of the current CUDA device."""

    def __init__(self) -> None:
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        size = 4 * int(getattr(properties, "L2_cache_size", 0) or 64 << 20)
        self._scratch = torch.empty(size, dtype=torch.uint8, device="cuda")

    def event(self) -> Event:
        """A new timing event."""
        return torch.cuda.Event(enable_timing=True)

    def flush(self) -> None:
        """Writes several times the size of the L2 cache."""
        self._scratch.zero_()

    def synchronize(self) -> None:
        """Waits for all work on the device."""
        torch.cuda.synchronize()


def round_seconds(
    run: Callable[..., Any],
    inputs: Sequence[tuple[Any, ...]] = ((),),
    *,
    rounds: int = 50,
    warmup: int = 5,
    device: Any = None,
) -> list[float]:
    """Device seconds of each of ``rounds`` calls ``run(*inputs[round % len(inputs)])``.

    Args:
        run: enqueues work on the current stream.
        inputs: argument tuples, taken in turn.
        rounds: timed calls, at least 1.
        warmup: calls before, also over the input sets; compilation and autotuning happen there.
        device: a stand-in for :class:`Device`.

    Raises:
        ValueError: no rounds or no inputs.
    """
    if rounds < 1 or not inputs:
        raise ValueError(f"rounds, inputs: got {rounds} rounds and {len(inputs)} input sets, expected at least 1 each")
    device = device or Device()
    for turn in range(warmup):
        run(*inputs[turn % len(inputs)])
    pairs = []
    for turn in range(rounds):
        device.flush()
        start, end = device.event(), device.event()
        start.record()
        run(*inputs[turn % len(inputs)])
        end.record()
        pairs.append((start, end))
    device.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def median_seconds(run: Callable[..., Any], *, rounds: int = 50) -> float:
    """Median of :func:`round_seconds`."""
    return statistics.median(round_seconds(run, rounds=rounds))
