"""Floors by hand."""

from __future__ import annotations

import pytest

from ddfast.bench.floor import Floor, Work, copy_rate, floor_of
from tests.bench.bench_helpers import CEILINGS


def test_floor_is_the_busiest_resource() -> None:
    assert floor_of(Work(1, "x", bytes=1e8, flops=1e8), CEILINGS) == Floor(1e8 / 10e9, "memory")
    assert floor_of(Work(1, "x", bytes=1e6, flops=1e9), CEILINGS) == Floor(1e9 / 100e9, "arithmetic")
    assert floor_of(Work(1, "x", flops=8e9, precision="bf16", cores=2), CEILINGS) == Floor(0.01, "arithmetic")
    decode = floor_of(Work(1, "x", bytes=1e6, flops=1e6, jpeg_bytes=1e5, jpeg_pixels=2e5), CEILINGS)
    assert decode is not None
    assert decode.binding == "decode"
    assert decode.seconds == pytest.approx(7e-4 + 3e-4 + 1e-5)  # the same cores do both
    assert floor_of(Work(1, "x"), CEILINGS) is None


def test_floor_on_a_gpu_overlaps_all() -> None:
    assert floor_of(Work(1, "x", bytes=4e9, flops=1e9), CEILINGS, "cuda") == Floor(1e-3, "memory")
    assert floor_of(Work(1, "x", bytes=4e6, flops=8e11, precision="bf16"), CEILINGS, "cuda") == Floor(
        1e-3, "arithmetic"
    )
    assert floor_of(Work(1, "x", bytes=4e9), {**CEILINGS, "gpu": None}, "cuda") is None


def test_small_work_is_held_against_the_cache() -> None:
    assert copy_rate(CEILINGS["copy_rates"], 10) == 50e9
    assert copy_rate(CEILINGS["copy_rates"], 2e6) == 10e9
    assert copy_rate(CEILINGS["copy_rates"], 1e12) == 10e9
    assert copy_rate({"10": 1.0, "100": 3.0}, 5) == 3.0, "a slower small copy is noise; the floor stays a floor"
