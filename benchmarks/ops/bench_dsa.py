"""dsa and its transpose against the same operations in torch eager and torch.compile; one core, and the GPU.

taskset -c 0 pytest benchmarks/ops/bench_dsa.py --benchmark-enable --bench-size full
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
from ddfast.train.dsa import draw_dsa, pack

SIDE = 32
BATCHES = (10, 256)
PASSES = {"value": 2.0, "gradient": 4.0}  # planes read and written
Run = Callable[[Tensor, Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def color(x: Tensor, values: Tensor) -> Tensor:
    """As DSA writes it: three operations one after the other."""
    brightness, saturation, contrast = (each[:, None, None, None] for each in values.unbind(1))
    x = x + brightness
    mean = x.mean(1, keepdim=True)
    x = (x - mean) * saturation + mean
    mean = x.mean((1, 2, 3), keepdim=True)
    return (x - mean) * contrast + mean


def crop(x: Tensor, values: Tensor) -> Tensor:
    """As DSA writes it: the padded picture indexed by pixels."""
    n, _, h, w = x.shape
    at = torch.meshgrid(*(torch.arange(side, device=x.device) for side in (n, h, w)), indexing="ij")
    rows = (at[1] + values[:, 0].long()[:, None, None] + 1).clamp(0, h + 1)
    columns = (at[2] + values[:, 1].long()[:, None, None] + 1).clamp(0, w + 1)
    return F.pad(x, (1, 1, 1, 1)).permute(0, 2, 3, 1)[at[0], rows, columns].permute(0, 3, 1, 2)


def rotate(x: Tensor, values: Tensor) -> Tensor:
    """As DSA writes it: affine_grid and grid_sample."""
    cos, sin, zero = values[:, 0].cos(), values[:, 0].sin(), torch.zeros_like(values[:, 0])
    matrix = torch.stack([cos, -sin, zero, sin, cos, zero], 1).view(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(matrix, list(x.shape), align_corners=True), align_corners=True)


KINDS: dict[str, Run] = {"color": color, "crop": crop, "rotate": rotate}


@functools.cache
def _compiled(kind: str) -> Run:
    return torch.compile(KINDS[kind], dynamic=False)


@functools.cache
def _inputs(kind: str, n: int, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures, a gradient, the draw's values and the same as rows of parameters."""
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(n, 3, SIDE, SIDE, generator=generator) for _ in range(2))
    draw = draw_dsa(kind, n, (SIDE, SIDE), seed=0)
    found = (x, g, draw.values, pack(draw, (SIDE, SIDE)))
    return found if device == "cpu" else tuple(value.to(device) for value in found)


def _job(run: Run, order: str, x: Tensor, g: Tensor, values: Tensor) -> Tensor:
    if order == "value":
        with torch.no_grad():
            return run(x, values)
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(run(leaf, values), leaf, g)[0]


def _measure(case: Any, kind: str, n: int, order: str, name: str, device: str) -> None:
    own = name in ("cpp", "triton")
    if own and name not in ops.available_backends("dsa", device):
        pytest.skip(f"{name} is not available")
    x, g, values, rows = _inputs(kind, n, device)
    run = ops.dsa if own else _compiled(kind) if name == "compile" else KINDS[kind]

    def check(out: Tensor) -> Check:
        truth = _job(KINDS[kind], order, *(each.cpu().double() for each in (x, g, values)))
        return Check("largest error against float64", float((out.cpu() - truth).abs().max()), 5e-5)

    case(
        lambda: _job(run, order, x, g, rows if own else values),
        labels=Labels(
            f"dsa {kind}, {n} pictures, {order}{' cuda' if device == 'cuda' else ''}", name, "dsa",
            f"{n}x3x{SIDE}x{SIDE}", "float32", name, None if own else package("torch"), device,
        ),
        work=jobs.planes(n, 3, SIDE, PASSES[order]),
        check=check,
        ddfast=None if own else (lambda: _job(ops.dsa, order, x, g, rows)),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["cpp", "eager", "compile"])
@pytest.mark.parametrize("order", PASSES)
@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_dsa(case: Any, kind: str, n: int, order: str, name: str) -> None:
    if name == "compile" and (kind == "crop" or n != max(BATCHES)):
        pytest.skip("compiled for the larger batch of two operations only: each takes seconds to compile")
    _measure(case, kind, n, order, name, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["triton", "eager", "compile"])
@pytest.mark.parametrize("order", PASSES)
@pytest.mark.parametrize("n", BATCHES)
@pytest.mark.parametrize("kind", KINDS)
def test_cuda(case: Any, kind: str, n: int, order: str, name: str) -> None:
    _measure(case, kind, n, order, name, "cuda")
