"""conv3x3 and its gradients against torch's own convolution (oneDNN), channels-last; one core.

taskset -c 0 pytest benchmarks/ops/bench_conv3x3.py --benchmark-enable --benchmark-size full
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.records import Labels
from ddfast import ops
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.ops.conv3x3 import reference

# images, channels, side: the second and the last layer of a ConvNet-3 at 32 px
SHAPES = {"layer 2": (32, 128, 16), "layer 3": (32, 128, 8), "layer 2, batch 256": (256, 128, 16)}
SIZES = {"smoke": 1, "medium": 2, "full": 3}
_ops = torch.ops.ddfast
PASSES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "value": (_ops.conv3x3, reference.conv3x3),
    "input gradient": (_ops.conv3x3_input_gradient, reference.input_gradient),
    "weight gradient": (_ops.conv3x3_weight_gradient, reference.weight_gradient),
}
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", ["cpp", "torch"])
@pytest.mark.parametrize("order", PASSES)
@pytest.mark.parametrize("place", range(3))
def test_conv3x3(case: Any, bench_size: str, place: int, order: str, name: str) -> None:
    if place >= SIZES[bench_size]:
        pytest.skip("in larger sizes only")
    if name == "cpp" and name not in ops.available_backends("conv3x3"):
        pytest.skip("no native module")
    shape = list(SHAPES)[place]
    n, c, side = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)
    x, g = (torch.randn(n, c, side, side, generator=generator) for _ in range(2))
    w = torch.randn(c, c, 3, 3, generator=generator)
    x, g, w = (t.contiguous(memory_format=torch.channels_last) for t in (x, g, w))
    given = {"value": (x, w), "input gradient": (g, w), "weight gradient": (g, x)}[order]
    mine, plain = PASSES[order]

    def check(out: Tensor) -> Check:
        truth = plain(*(t.double() for t in given))
        error = float((out.double() - truth).abs().max() / truth.abs().max())
        return Check("error against float64, of the largest value", error, 1e-5)

    own = name == "cpp"
    case(
        lambda: (mine if own else plain)(*given),
        labels=Labels(
            f"conv3x3 {shape}, {order}", name, "conv3x3", f"{n}x{c}x{side}x{side}", "float32", name,
            None if own else package("torch"), "cpu",
        ),
        work=Work(n, "image", flops=2 * 9 * c * c * side * side * n, precision="fp32"),
        check=check,
        ddfast=None if own else (lambda: mine(*given)),
    )  # fmt: skip
