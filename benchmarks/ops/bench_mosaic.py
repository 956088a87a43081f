"""mosaic against its plain-torch definition, microseconds a patch on one core; nothing is reported unless bytes agree.

taskset -c 0 pytest benchmarks/ops/bench_mosaic.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.ops.crop_work import Work, interleaved, make_work
from ddfast.ops import available_backends, mosaic, use_backend

SIZES = {"smoke": (4, 2), "medium": (40, 10), "full": (80, 30)}  # patches, rounds
ROUNDINGS = ("nearest", "truncate")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def work(bench_size: str) -> Work:
    return make_work("rded-112", SIZES[bench_size][0])


def _run(work: Work, rounding: str, backend: str) -> Callable[[], torch.Tensor]:
    packed = work.packed()

    def run() -> torch.Tensor:
        with use_backend(backend):
            return mosaic(*packed, size=224, factor=2, rounding=rounding, validate=False)

    return run


def _check(work: Work, rounding: str) -> None:
    ours, wanted = _run(work, rounding, "cpp")().int(), _run(work, rounding, "reference")().int()
    share = float((ours != wanted).float().mean())
    if share > 1e-4 or int((ours - wanted).abs().max()) > 1:
        raise AssertionError(f"mosaic {rounding}: {share:.2e} of the bytes differ from the definition")


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_mosaic(benchmark: Any, work: Work, bench_size: str, rounding: str, backend: str) -> None:
    if backend not in available_backends("mosaic"):
        pytest.skip(f"backend {backend} is not available")
    if backend != "reference":
        _check(work, rounding)
    benchmark.group = f"mosaic 2x2 of 112 {rounding}"
    benchmark.pedantic(_run(work, rounding, backend), rounds=SIZES[bench_size][1], warmup_rounds=1)
    benchmark.extra_info.update(backend=backend, patches=len(work.boxes))


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_ratio(work: Work, bench_size: str, rounding: str, report_line: Callable[[str], None]) -> None:
    """Side by side in turns, the figures to quote."""
    if "cpp" not in available_backends("mosaic"):
        pytest.skip("the C++ kernels are not built")
    _check(work, rounding)
    cases = {name: _run(work, rounding, name) for name in ("cpp", "reference")}
    best = interleaved(cases, SIZES[bench_size][1])
    each = {name: 1e6 * t / len(work.boxes) for name, t in best.items()}
    report_line(
        f"mosaic {rounding}: {each['cpp']:.0f} us/patch, definition {each['reference']:.0f} "
        f"({each['reference'] / each['cpp']:.1f}x)"
    )
