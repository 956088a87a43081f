"""crop_score against torch eager and torch.compile on one core; nothing is reported unless the scores agree.

taskset -c 0 pytest benchmarks/ops/bench_crop_score.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ops.crop_work import interleaved
from ddfast import ops

ROUNDS = {"smoke": 2, "medium": 30, "full": 200}
SHAPES = {"ImageNet-1K": (64, 5, 1000), "CIFAR-10": (256, 5, 10), "ImageNet-21K": (16, 5, 21841)}
NAMES = ("cpp", "eager", "compile", "published")
Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]


def eager(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """What one writes with torch: cross-entropy, then the minimum over crops."""
    n, m, classes = logits.shape
    loss = F.cross_entropy(logits.reshape(-1, classes), labels.repeat_interleave(m), reduction="none").view(n, m)
    return loss, *loss.min(1)


def published(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """RDED's own steps: softmax, gather, logarithm, minimum."""
    index = labels[:, None, None].expand(-1, logits.shape[1], 1)
    loss = -torch.log(torch.softmax(logits, 2).gather(2, index).squeeze(2))
    return loss, *loss.min(1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=SHAPES)
def cases(request: pytest.FixtureRequest) -> tuple[str, dict[str, Callable[[], tuple[Tensor, ...]]]]:
    """Callables by name, checked against float64."""
    generator = torch.Generator().manual_seed(0)
    n, m, classes = SHAPES[request.param]
    logits = torch.randn(n, m, classes, generator=generator) * 3
    labels = torch.randint(0, classes, (n,), generator=generator)
    with ops.use_backend("reference", ["crop_score"]):
        truth = ops.crop_score(logits.double(), labels)
    functions: dict[str, Score] = {"eager": eager, "published": published, "cpp": ops.crop_score}
    functions["compile"] = torch.compile(eager, dynamic=False)
    if "cpp" not in ops.available_backends("crop_score"):
        del functions["cpp"]
    for name, function in functions.items():
        loss, _, index = function(logits, labels)
        torch.testing.assert_close(loss.double(), truth[0], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        if not torch.equal(index, truth[2]):
            raise AssertionError(f"{name} chooses other crops than float64")
    runs = {name: (lambda f=function: f(logits, labels)) for name, function in functions.items()}
    return str(request.param), runs


@pytest.mark.benchmark(timer=time.process_time)
@pytest.mark.parametrize("name", NAMES)
def test_crop_score(benchmark: Any, cases: Any, bench_size: str, name: str) -> None:
    case, runs = cases
    if name not in runs:
        pytest.skip(f"{name} is not available")
    benchmark.group = f"crop_score {case} {SHAPES[case]}"
    benchmark.pedantic(runs[name], rounds=ROUNDS[bench_size], warmup_rounds=1, iterations=3)
    benchmark.extra_info.update(implementation=name, torch=torch.__version__)


def test_ratio(cases: Any, bench_size: str, report_line: Callable[[str], None]) -> None:
    """Side by side in turns, the figures to quote."""
    case, runs = cases
    best = interleaved(runs, ROUNDS[bench_size])
    shown = ", ".join(f"{name} {1e6 * best[name]:.0f} us" for name in NAMES if name in best)
    report_line(f"crop_score {case}: {shown} (torch {torch.__version__})")
