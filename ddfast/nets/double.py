"""Float64 forwards on a CPU: depthwise convolutions as a few large multiply-adds.

oneDNN has no float64, and torch's own fallback runs one small parallel loop per channel: thousands of thread barriers a
picture, which cost seconds where another process wants the same cores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from .fold import constant

aten = torch.ops.aten


def depthwise_by_shifts(module: fx.GraphModule) -> None:
    """Replaces the depthwise convolutions of a captured graph by :func:`depthwise`, in place."""
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target != aten.conv2d.default or len(node.args) < 7:
            continue
        weight = constant(module, node.args[1])
        if weight is not None and weight.shape[1] == 1 and weight.shape[0] == node.args[6]:
            node.target = depthwise
    module.recompile()


def depthwise(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int,
) -> Tensor:  # fmt: skip
    """``conv2d`` with one filter a channel, summed filter tap by filter tap; arguments as aten's.

    ``x`` [n, C, H, W], ``weight`` [C, 1, kh, kw], ``bias`` [C] or None -> [n, C, H', W'].
    """
    (sy, sx), (py, px), (dy, dx) = (_pair(v) for v in (stride, padding, dilation))
    x = F.pad(x.contiguous(), (px, px, py, py))
    height, width = weight.shape[2:]
    rows = (x.shape[2] - dy * (height - 1) - 1) // sy + 1
    columns = (x.shape[3] - dx * (width - 1) - 1) // sx + 1
    out = x.new_zeros(x.shape[0], groups, rows, columns)
    if bias is not None:
        out += bias[:, None, None]
    for i in range(height):
        for j in range(width):
            taps = x[:, :, i * dy : i * dy + sy * (rows - 1) + 1 : sy, j * dx : j * dx + sx * (columns - 1) + 1 : sx]
            out.addcmul_(taps, weight[:, :, i, j, None])
    return out


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (value[0], value[-1])
