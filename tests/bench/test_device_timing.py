"""Order of events, flushes and inputs on a stand-in for the device; the seconds themselves need a GPU."""

from __future__ import annotations

import pytest
import torch

from ddfast.bench import device_timing


class FakeDevice:
    """A stream with a clock that work and flushes move on; events note the clock when they are recorded."""

    def __init__(self) -> None:
        self.clock, self.synchronized, self.log = 0.0, False, []

    def event(self) -> FakeEvent:
        return FakeEvent(self)

    def flush(self) -> None:
        self.clock += 1000
        self.log.append("flush")

    def synchronize(self) -> None:
        self.synchronized = True


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device, self.at = device, -1.0

    def record(self) -> None:
        self.at = self.device.clock
        self.device.log.append("event")

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.device.synchronized, "elapsed_time of events that have not happened"
        return end.at - self.at


def test_rounds_rotate_inputs_and_leave_the_flush_out() -> None:
    device = FakeDevice()

    def run(milliseconds: float) -> None:
        device.clock += milliseconds
        device.log.append("run")

    found = device_timing.round_seconds(run, [(2.0,), (4.0,)], rounds=4, warmup=3, device=device)
    assert found == pytest.approx([2e-3, 4e-3, 2e-3, 4e-3])
    assert device.log == ["run"] * 3 + ["flush", "event", "run", "event"] * 4


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="0 rounds"):
        device_timing.round_seconds(lambda: None, rounds=0, device=FakeDevice())
    with pytest.raises(ValueError, match="0 input sets"):
        device_timing.round_seconds(lambda: None, [], device=FakeDevice())


@pytest.mark.gpu
def test_a_larger_product_takes_longer() -> None:
    small, large = (torch.randn(side, side, device="cuda") for side in (1024, 8192))
    times = [device_timing.median_seconds(lambda x=x: x @ x, rounds=10) for x in (small, large)]
    assert times[1] > 5 * times[0]
    assert 2 * 8192**3 / times[1] < 5e15
