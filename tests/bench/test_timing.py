"""Two callables in turns on stand-ins for the clocks."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from ddfast.bench import timing
from tests.bench.test_device_timing import FakeDevice


def busy(seconds: float) -> Callable[[], None]:
    def run() -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return run


def test_cpu_turns_leave_waiting_out_and_give_the_ratio() -> None:
    def sleeper() -> None:
        time.sleep(0.01)
        busy(0.006)()

    turns = timing.cpu_turns(busy(0.003), sleeper, 0.0)
    assert turns.ratio.rounds == timing.FEWEST
    assert turns.ours.median == pytest.approx(0.003, rel=0.3)
    assert turns.ratio.median == pytest.approx(2.0, rel=0.3)


def test_cuda_turns_take_the_devices_clock() -> None:
    device = FakeDevice()

    def run(milliseconds: float) -> None:
        device.clock += milliseconds

    turns = timing.cuda_turns(lambda: run(2.0), lambda: run(5.0), 0.0, device)
    assert (turns.ours.median, turns.rival.median, turns.ratio.median) == pytest.approx((2e-3, 5e-3, 2.5))
    assert turns.ratio.rounds >= timing.FEWEST
