"""Spread, ratio and check."""

from __future__ import annotations

from ddfast.bench.measured import Check, Ratio, Spread


def test_spread_and_ratio() -> None:
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 0.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 1.0, 2.0)
    assert Ratio.of([2.0]) == Ratio(2.0, 2.0, 2.0, 1)
    assert Ratio.of([1.0, 2.0, 3.0]) == Ratio(2.0, 1.5, 2.5, 3)


def test_nan_error_does_not_pass() -> None:
    assert Check("c", 1.0, 1.0).passed
    assert not Check("c", float("nan"), 1.0).passed
