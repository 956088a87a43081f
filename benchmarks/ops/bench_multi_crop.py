"""multi_crop against torch and the fastest resizers, microseconds a crop on one core.

taskset -c 0 pytest benchmarks/ops/bench_multi_crop.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.ops.crop_work import MEAN, RIVALS, STD, Work, check, interleaved, make_work
from ddfast.ops import available_backends, multi_crop, use_backend

SIZES = {"smoke": (5, 2), "medium": (40, 10), "full": (100, 40)}  # crops, rounds
SHAPES = ("rded-112", "wide-224")
OURS = [
    pytest.param("cpp", torch.float32, False, id="cpp-float32"),
    pytest.param("cpp", torch.float32, True, id="cpp-float32-channels_last"),
    pytest.param("cpp", torch.bfloat16, True, id="cpp-bfloat16-channels_last"),
    pytest.param("reference", torch.float32, False, id="reference-float32"),
]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SHAPES)
def work(request: pytest.FixtureRequest, bench_size: str) -> tuple[str, Work, torch.Tensor]:
    made = make_work(request.param, SIZES[bench_size][0])
    with use_backend("reference"):
        wanted = multi_crop(*made.packed(), size=(made.side, made.side), mean=MEAN, std=STD)
    return request.param, made, wanted


def _ours(work: Work, dtype: torch.dtype, channels_last: bool) -> Callable[[], torch.Tensor]:
    """Into one kept buffer, as the input stream does."""
    packed, size = work.packed(), (work.side, work.side)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((len(work.boxes), 3, *size), dtype=dtype, memory_format=layout)
    return lambda: multi_crop(*packed, size=size, mean=MEAN, std=STD, out=out, validate=False)


def _rivals() -> list[str]:
    return [name for name, (_, module, _) in RIVALS.items() if importlib.util.find_spec(module)]


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize(("backend", "dtype", "channels_last"), OURS)
def test_ddfast(
    benchmark: Any,
    work: tuple[str, Work, torch.Tensor],
    bench_size: str,
    backend: str,
    dtype: torch.dtype,
    channels_last: bool,
) -> None:
    shape, made, wanted = work
    if backend not in available_backends("multi_crop"):
        pytest.skip(f"backend {backend} is not available")
    run = _ours(made, dtype, channels_last)
    benchmark.group = f"multi_crop {shape}"
    with use_backend(backend):
        check(backend, run().float(), wanted, 1e-3 if dtype == torch.float32 else 0.5)
        benchmark.pedantic(run, rounds=SIZES[bench_size][1], warmup_rounds=1)
    benchmark.extra_info.update(backend=backend, dtype=str(dtype), channels_last=channels_last, crops=len(made.boxes))


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", _rivals())
def test_baseline(benchmark: Any, work: tuple[str, Work, torch.Tensor], bench_size: str, name: str) -> None:
    shape, made, wanted = work
    run, _, levels = RIVALS[name]
    check(name, run(made), wanted, levels)
    benchmark.group = f"multi_crop {shape}"
    benchmark.pedantic(run, args=(made,), rounds=SIZES[bench_size][1])
    benchmark.extra_info.update(baseline=name, crops=len(made.boxes))


def test_ratios(work: tuple[str, Work, torch.Tensor], bench_size: str, report_line: Callable[[str], None]) -> None:
    """Side by side in turns, the figures to quote."""
    shape, made, wanted = work
    if "cpp" not in available_backends("multi_crop"):
        pytest.skip("the C++ kernels are not built")
    ours = _ours(made, torch.float32, False)
    check("cpp", ours(), wanted, 1e-3)
    cases: dict[str, Callable[[], object]] = {"ddfast": ours}
    for name in _rivals():
        run, _, levels = RIVALS[name]
        check(name, run(made), wanted, levels)
        cases[name] = lambda run=run: run(made)  # type: ignore[misc]
    best = interleaved(cases, SIZES[bench_size][1])
    report_line(
        f"multi_crop {shape}: "
        + ", ".join(f"{n} {1e6 * t / len(made.boxes):.1f} us/crop ({t / best['ddfast']:.1f}x)" for n, t in best.items())
    )
