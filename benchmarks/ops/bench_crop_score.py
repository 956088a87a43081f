"""crop_score against torch eager, torch.compile and the published steps; one core, and the GPU where there is one.

taskset -c 0 pytest benchmarks/ops/bench_crop_score.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import Labels
from ddfast import ops
from ddfast.bench import work as jobs
from ddfast.bench.machine import package
from ddfast.bench.measured import Check

SHAPES = {"ImageNet-1K": (64, 5, 1000), "CIFAR-10": (256, 5, 10), "ImageNet-21K": (16, 5, 21841)}
GPU_IMAGES = {"ImageNet-1K": 4096, "CIFAR-10": 65536, "ImageNet-21K": 256}
INPUT_SETS = 4
Score = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
pytestmark = pytest.mark.usefixtures("one_thread")


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


@functools.cache
def _compiled() -> Score:
    return torch.compile(eager, dynamic=False)


def _backend(name: str) -> Score:
    def score(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        with ops.use_backend(name):
            return ops.crop_score(logits, labels)

    return score


BASELINES: dict[str, Callable[[], Score]] = {
    "eager": lambda: eager,
    "compile": _compiled,
    "published": lambda: published,
}


@functools.cache
def _inputs(shape: str, device: str) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    n, m, classes = SHAPES[shape]
    n = n if device == "cpu" else GPU_IMAGES[shape]
    logits = [torch.randn(n, m, classes, generator=generator) * 3 for _ in range(1 if device == "cpu" else INPUT_SETS)]
    return [(each.to(device), torch.randint(0, classes, (n,), generator=generator).to(device)) for each in logits]


def _check(out: tuple[Tensor, ...], logits: Tensor, labels: Tensor) -> Check:
    with ops.use_backend("reference", ["crop_score"]):
        truth = ops.crop_score(logits.double().cpu(), labels.cpu())
    error = float(((out[0].cpu().double() - truth[0]).abs() / (1 + truth[0])).max())
    same = torch.equal(out[2].cpu(), truth[2])
    return Check("relative loss error against float64, same crops", error if same else float("inf"), 2e-5)


def _measure(case: Any, shape: str, name: str, score: Score, device: str, baseline: str | None, backend: str) -> None:
    inputs = _inputs(shape, device)
    n, m, classes = inputs[0][0].shape
    group = f"crop_score {shape}" + (" cuda" if device == "cuda" else "")
    ours = _backend(ops.available_backends("crop_score", device)[0])
    case(
        score,
        inputs=inputs,
        labels=Labels(group, name, "crop_score", f"logits {n}x{m}x{classes}", "float32", backend, baseline, device),
        work=jobs.scores(n, m, classes),
        check=_check,
        ddfast=(lambda: ours(*inputs[0])) if baseline else None,
    )


@pytest.mark.parametrize("name", ["cpp", *BASELINES])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_score(case: Any, shape: str, name: str) -> None:
    if name in BASELINES:
        _measure(case, shape, name, BASELINES[name](), "cpu", package("torch"), name)
    elif name in ops.available_backends("crop_score"):
        _measure(case, shape, name, _backend(name), "cpu", None, name)
    else:
        pytest.skip(f"{name} is not available")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["cuda", "triton", *BASELINES])
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda(case: Any, shape: str, name: str) -> None:
    if name in BASELINES:
        _measure(case, shape, name, BASELINES[name](), "cuda", package("torch"), name)
    elif name in ops.available_backends("crop_score", "cuda"):
        _measure(case, shape, name, _backend(name), "cuda", None, name)
    else:
        pytest.skip(f"{name} is not available")
