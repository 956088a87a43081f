"""mmd with its gradient in the synthetic features, as D3 takes it, against torch; one core, and the GPU.

taskset -c 0 pytest benchmarks/ops/bench_mmd.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.records import Labels
from ddfast import ops
from ddfast.bench import work as jobs
from ddfast.bench.machine import package
from ddfast.bench.measured import Check

POINTS, FEATURES = 30, 2048
CLASSES = (10, 200)
Loss = Callable[[Tensor, Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def batched(x: Tensor, y: Tensor) -> Tensor:
    """What one writes with torch for all classes at once: distances by products, then the kernels."""
    z = torch.cat([x, y], 1)
    norms = z.square().sum(2)
    squares = (norms[:, :, None] + norms[:, None, :] - 2 * z @ z.mT).clamp(min=0)
    kernel = sum((torch.exp(squares / (-2 * s * s)) for s in ops.MMD_BANDWIDTHS), torch.zeros_like(squares))
    n, m = x.shape[1], y.shape[1]
    kernel = kernel * (1 - torch.eye(n + m, device=x.device))
    own, real, cross = kernel[:, :n, :n], kernel[:, n:, n:], kernel[:, :n, n:]
    return own.sum((1, 2)) / (n * (n - 1)) + real.sum((1, 2)) / (m * (m - 1)) - 2 * cross.mean((1, 2))


def by_class(x: Tensor, y: Tensor) -> Tensor:
    """As D3 has it: one class after the other."""
    return torch.cat([batched(a[None], b[None]) for a, b in zip(x, y, strict=True)])


def _ours(x: Tensor, y: Tensor) -> Tensor:
    return ops.mmd(x, y)


def _without_real(x: Tensor, y: Tensor) -> Tensor:
    return ops.mmd(x, y, real_term=False)


@functools.cache
def _compiled() -> Loss:
    return torch.compile(batched, dynamic=False)


@functools.cache
def _inputs(classes: int, device: str) -> tuple[Tensor, Tensor]:
    """Features of which pairs are about 20 apart, as those of D3's networks are."""
    generator = torch.Generator().manual_seed(0)
    x, y = (0.33 * torch.randn(classes, POINTS, FEATURES, generator=generator) for _ in range(2))
    return x.to(device).requires_grad_(), (y + 0.02).to(device)


def _step(loss: Loss, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(x, y)
    return value.detach(), torch.autograd.grad(value.sum(), x)[0]


@functools.cache
def _truth(classes: int) -> tuple[Tensor, Tensor]:
    x, y = _inputs(classes, "cpu")
    return _step(batched, x.detach().double().requires_grad_(), y.double())


def _measure(case: Any, classes: int, name: str, device: str) -> None:
    run = {"eager": batched, "eager-loop": by_class, "real_term=False": _without_real}.get(name, _ours)
    run = _compiled() if name == "compile" else run
    rival = name in ("eager", "eager-loop", "compile")
    if name in ("cpp", "triton") and name not in ops.available_backends("mmd", device):
        pytest.skip(f"{name} is not available")
    x, y = _inputs(classes, device)

    def check(out: tuple[Tensor, Tensor]) -> Check:
        value, grad = _truth(classes)
        error = float((out[1].cpu() - grad).abs().max() / grad.abs().max())
        if name != "real_term=False":
            error = max(error, float((out[0].cpu() - value).abs().max()))
        return Check("error of values, relative one of gradients, against float64", error, 1e-4)

    case(
        lambda: _step(run, x, y),
        labels=Labels(
            f"mmd, {classes} classes{' cuda' if device == 'cuda' else ''}", name, "mmd",
            f"{classes} classes of {POINTS} and {POINTS} points, {FEATURES} features", "float32",
            name, package("torch") if rival else None, device,
        ),
        work=jobs.mmd(classes, POINTS, POINTS, FEATURES, len(ops.MMD_BANDWIDTHS), name != "real_term=False"),
        check=check,
        ddfast=(lambda: _step(_ours, x, y)) if rival else None,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["cpp", "real_term=False", "eager", "eager-loop", "compile"])
@pytest.mark.parametrize("classes", CLASSES)
def test_mmd(case: Any, bench_size: str, classes: int, name: str) -> None:
    if bench_size == "smoke" and classes > min(CLASSES):
        pytest.skip("features of 200 classes are for larger sizes")
    _measure(case, classes, name, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["triton", "real_term=False", "eager", "eager-loop", "compile"])
@pytest.mark.parametrize("classes", CLASSES)
def test_cuda(case: Any, classes: int, name: str) -> None:
    _measure(case, classes, name, "cuda")
