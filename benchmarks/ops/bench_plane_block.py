"""plane_block and its derivatives against the field's own layers under autograd and torch.compile; one core.

taskset -c 0 pytest benchmarks/ops/bench_plane_block.py --benchmark-enable --bench-size full
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

# images, channels, side: the first and the last layers of a ConvNet-3 at 32 px, 1 and 10 images per class
SHAPES = {"IPC 1, layer 1": (10, 128, 32), "IPC 1, layer 3": (10, 128, 8), "IPC 10, layer 1": (100, 128, 32)}
PASSES = {"value": 1.25, "gradient": 3.5, "second": 8.0}
Block = Callable[[Tensor, Tensor, Tensor], Tensor]
pytestmark = pytest.mark.usefixtures("one_thread")


def layers(a: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """As DC, DSA, DM and MTT write it."""
    return F.avg_pool2d(F.relu(F.group_norm(a, a.shape[1], gamma, beta, 1e-5)), 2)


@functools.cache
def _compiled() -> Block:
    return torch.compile(layers, dynamic=False)


@functools.cache
def _inputs(shape: str, channels_last: bool) -> tuple[Tensor, ...]:
    n, c, side = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    a, da = (torch.randn(n, c, side, side, generator=generator).contiguous(memory_format=layout) for _ in range(2))
    gamma, beta, dgamma, dbeta = (torch.randn(c, generator=generator) for _ in range(4))
    g = torch.randn(n, c, side // 2, side // 2, generator=generator).contiguous(memory_format=layout)
    return a, gamma, beta, g, da, dgamma, dbeta


def _job(block: Block, order: str, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """value; gradient: all first derivatives; second: those and the derivatives of <gradient, direction>."""
    a, gamma, beta, g, *direction = given
    if order == "value":
        with torch.no_grad():
            return (block(a, gamma, beta),)
    leaves = tuple(x.detach().requires_grad_() for x in (a, gamma, beta))
    g = g.detach().requires_grad_()
    p = block(*leaves)
    first = torch.autograd.grad(p, leaves, g, create_graph=order == "second")
    if order == "gradient":
        return (p, *first)
    return (p, *first, *torch.autograd.grad(first, (g, *leaves), direction))


def _ours(a: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    return ops.plane_block(a, gamma, beta)


BASELINES: dict[str, Callable[[], Block]] = {"eager": lambda: layers, "compile": _compiled}


@pytest.mark.parametrize("name", ["cpp", *BASELINES])
@pytest.mark.parametrize("order", PASSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_plane_block(case: Any, shape: str, order: str, name: str) -> None:
    if name == "compile" and order == "second":
        pytest.skip("torch.compile does not support double backward")
    if name not in ("cpp", *BASELINES) or (name == "cpp" and name not in ops.available_backends("plane_block")):
        pytest.skip(f"{name} is not available")
    own = name == "cpp"
    given, last = _inputs(shape, own), _inputs(shape, True)
    n, c, side = SHAPES[shape]
    block = _ours if own else BASELINES[name]()

    def check(out: tuple[Tensor, ...]) -> Check:
        with ops.use_backend("reference", ["plane_block"]):
            truth = _job(layers, order, tuple(x[:10].double() if x.ndim == 4 else x.double() for x in given))
        planes = [(x[:10].double(), t) for x, t in zip(out, truth, strict=True) if x.ndim == 4]
        error = max(float((x - t).abs().max() / t.abs().max()) for x, t in planes)
        return Check("error against float64, of the largest value", error, 1e-5)

    case(
        lambda: _job(block, order, given),
        labels=Labels(
            f"plane_block {shape}, {order}", name, "plane_block", f"{n}x{c}x{side}x{side}", "float32",
            name, None if own else package("torch"), "cpu",
        ),
        work=jobs.planes(n, c, side, PASSES[order]),
        check=check,
        ddfast=None if own else (lambda: _job(_ours, order, last)),
    )  # fmt: skip
