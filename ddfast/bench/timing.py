"""Times two ways to do one job in turns, because the clock of shared machines drifts: CPU time, or the GPU's events."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ddfast.bench import device_timing
from ddfast.bench.measured import Ratio, Spread

ROUND_SECONDS = 2e-3  # shorter calls are repeated within a round
FEWEST, MOST = 3, 50
Run = Callable[[], Any]


@dataclass(frozen=True)
class Turns:
    """Seconds of one call of either, and the rival's over ours, round by round."""

    ours: Spread
    rival: Spread
    ratio: Ratio

    @classmethod
    def of(cls, pairs: list[tuple[float, float]]) -> Turns:
        """Of (ours, rival) seconds of at least one round."""
        ours, rival = zip(*pairs, strict=True)
        return cls(Spread.of(ours), Spread.of(rival), Ratio.of([b / a for a, b in pairs]))


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cpu_turns(ours: Run, rival: Run, budget: float) -> Turns:
    """CPU seconds of this process, for about ``budget`` wall seconds; both have been called before."""
    end = time.perf_counter() + budget
    pairs: list[tuple[float, float]] = []
    while len(pairs) < FEWEST or (len(pairs) < MOST and time.perf_counter() < end):
        pairs.append((_cpu_seconds(ours), _cpu_seconds(rival)))
    return Turns.of(pairs)


def cuda_turns(ours: Run, rival: Run, budget: float, device: Any = None) -> Turns:
    """Device seconds, for about ``budget`` wall seconds; both have been called before."""
    device = device or device_timing.Device()
    device.synchronize()
    begin = time.perf_counter()
    for run in (ours, rival):
        run()
    device.synchronize()
    rounds = max(FEWEST, min(MOST, round(budget / max(time.perf_counter() - begin, 1e-6))))
    found = device_timing.round_seconds(
        lambda run: run(), [(ours,), (rival,)], rounds=2 * rounds, warmup=2, device=device
    )
    return Turns.of(list(zip(found[::2], found[1::2], strict=True)))


def _cpu_seconds(run: Run) -> float:
    start, calls = time.process_time(), 0
    while calls == 0 or time.process_time() - start < ROUND_SECONDS:
        run()
        calls += 1
    return (time.process_time() - start) / calls
