"""class_topk against torch (concatenate and sort the class's row) on one core; nothing is reported unless they agree.

taskset -c 0 pytest benchmarks/ops/bench_class_topk.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.ops.crop_work import interleaved
from ddfast import ops
from ddfast.ops._registry import OPS

ROUNDS = {"smoke": 2, "medium": 30, "full": 200}
# classes, kept per class, samples per call, whether a call brings one class (the stream does) or all mixed
CASES = {"stream": (1000, 40, 64, True), "mixed": (1000, 40, 4096, False), "long": (10, 2000, 4096, False)}
NAMES = ("cpp", "eager", "compile", "reference")
Table = tuple[Tensor, Tensor]


def eager(scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor) -> Table:
    """A loop over the classes of the batch, each merged by sorting; ties are left to the order of arrival."""
    best_scores, best_keys = best_scores.clone(), best_keys.clone()
    k = best_scores.shape[1]
    for label in labels.unique().tolist():
        own = labels == label
        merged, order = torch.cat([best_scores[label], scores[own]]).sort(stable=True)
        best_scores[label] = merged[:k]
        best_keys[label] = torch.cat([best_keys[label], keys[own]])[order[:k]]
    return best_scores, best_keys


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=CASES)
def cases(request: pytest.FixtureRequest) -> tuple[str, dict[str, Callable[[], Table]]]:
    """Callables by name, checked against the reference on a table that is half full."""
    classes, k, n, single = CASES[request.param]
    generator = torch.Generator().manual_seed(0)
    filled = classes * k // 2
    first = (torch.rand(filled, generator=generator), torch.arange(filled) % classes, torch.arange(filled))
    labels = torch.full((n,), 3) if single else torch.randint(0, classes, (n,), generator=generator)
    batch = (torch.rand(n, generator=generator), labels, filled + torch.arange(n))
    with ops.use_backend("reference", ["class_topk"]):
        table = ops.class_topk(*first, *ops.empty_topk(classes, k))
        truth = ops.class_topk(*batch, *table)

    def by_backend(name: str) -> Callable[[], Table]:
        return lambda: OPS["class_topk"].backends[name].run(*batch, *table)

    compiled = torch.compile(OPS["class_topk"].reference, dynamic=False)
    runs: dict[str, Callable[[], Table]] = {
        "eager": lambda: eager(*batch, *table),
        "compile": lambda: compiled(*batch, *table),
        **{name: by_backend(name) for name in ops.available_backends("class_topk")},
    }
    for name, run in runs.items():
        if not all(torch.equal(a, b) for a, b in zip(run(), truth, strict=True)):
            raise AssertionError(f"{name} keeps other samples than the definition")
    return str(request.param), runs


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", NAMES)
def test_class_topk(benchmark: Any, cases: Any, bench_size: str, name: str) -> None:
    case, runs = cases
    if name not in runs:
        pytest.skip(f"{name} is not available")
    benchmark.group = f"class_topk {case} {CASES[case]}"
    benchmark.pedantic(runs[name], rounds=ROUNDS[bench_size], warmup_rounds=1, iterations=3)
    benchmark.extra_info.update(implementation=name, torch=torch.__version__)


def test_ratio(cases: Any, bench_size: str, report_line: Callable[[str], None]) -> None:
    """Side by side in turns, the figures to quote."""
    case, runs = cases
    best = interleaved(runs, ROUNDS[bench_size])
    shown = ", ".join(f"{name} {1e6 * best[name]:.0f} us" for name in NAMES if name in best)
    report_line(f"class_topk {case}: {shown} (torch {torch.__version__})")
