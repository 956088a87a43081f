"""soft_label_loss with its gradient against torch eager and torch.compile; one core, and the GPU where there is one.

taskset -c 0 pytest benchmarks/ops/bench_soft_label_loss.py --benchmark-enable --bench-size full
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
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.bench.work import EXP_FLOPS

SHAPES = {"CIFAR-10": (50, 10), "ImageNet-100": (100, 1000), "ImageNet-1K": (1024, 1000)}
TEMPERATURE = 20.0
Loss = Callable[[Tensor, Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def eager(z: Tensor, t: Tensor) -> Tensor:
    """What one writes with torch."""
    p = torch.softmax(t / TEMPERATURE, 1)
    return F.kl_div(F.log_softmax(z / TEMPERATURE, 1), p, reduction="batchmean")


@functools.cache
def _compiled() -> Loss:
    return torch.compile(eager, dynamic=False)


def _ours(backend: str) -> Loss:
    def default(z: Tensor, t: Tensor) -> Tensor:
        return ops.soft_label_loss(z, t, temperature=TEMPERATURE)

    def loss(z: Tensor, t: Tensor) -> Tensor:
        with ops.use_backend(backend):
            return ops.soft_label_loss(z, t, temperature=TEMPERATURE)

    return default if backend == "default" else loss


def _step(loss: Loss) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    def step(z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        value = loss(z, t)
        return value.detach(), torch.autograd.grad(value, z)[0]

    return step


def _check(out: tuple[Tensor, Tensor], z: Tensor, t: Tensor) -> Check:
    x = z.detach().double().cpu().requires_grad_()
    value = eager(x, t.double().cpu())
    (grad,) = torch.autograd.grad(value, x)
    apart = float((out[1].cpu().double() - grad).abs().max() / grad.abs().max())
    return Check("relative error against float64", max(apart, abs(float(out[0].cpu() / value) - 1)), 1e-4)


def _measure(case: Any, shape: str, name: str, loss: Loss, device: str, baseline: str | None, backend: str) -> None:
    n, classes = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    z, t = (torch.randn(n, classes, generator=generator).to(device) * 3 for _ in range(2))
    z.requires_grad_()
    group = f"soft_label_loss {shape}" + (" cuda" if device == "cuda" else "")
    ours = _step(_ours("default"))
    case(
        _step(loss),
        inputs=[(z, t)],
        labels=Labels(group, name, "soft_label_loss", f"logits {n}x{classes}", "float32", backend, baseline, device),
        work=Work(n, "row", 12.0 * n * classes, float(2 * (EXP_FLOPS + 3) + 8) * n * classes),
        check=_check,
        ddfast=(lambda: ours(z, t)) if baseline else None,
    )


def _named(case: Any, shape: str, name: str, device: str) -> None:
    if name == "eager":
        _measure(case, shape, name, eager, device, package("torch"), name)
    elif name == "compile":
        _measure(case, shape, name, _compiled(), device, package("torch"), name)
    else:
        _measure(case, shape, name, _ours(name), device, None, name)


@pytest.mark.parametrize("name", ["default", "cpp", "reference", "eager", "compile"])
@pytest.mark.parametrize("shape", SHAPES)
def test_soft_label_loss(case: Any, shape: str, name: str) -> None:
    _named(case, shape, name, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["triton", "reference", "eager", "compile"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda(case: Any, shape: str, name: str) -> None:
    _named(case, shape, name, "cuda")
