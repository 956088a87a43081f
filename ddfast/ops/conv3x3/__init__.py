"""3x3 convolution of feature planes and its two gradients, on CPUs with Winograd's fewer products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddfast.ops import _checks, _registry
from ddfast.ops.conv3x3 import native, reference

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def conv3x3(x: Tensor, w: Tensor) -> Tensor:
    """Convolution with 3x3 filters, stride 1, zeros around, no bias: ``F.conv2d(x, w, padding=1)``.

    The C++ backend takes float32 planes of even sides and at least 128 channels: with B, G, A of F(2x2, 3x3), an output
    square is ``A' [sum over channels of (G w G') * (B' d B)] A`` of its 4x4 square d, 16 products where there are 36.
    Its rounding errors are at most twice those of direct convolution there. The gradients go the same way; the one in
    w is ``G' [sum over squares of (B' d B) (A g A')] G``.

    Differentiable any number of times: each of the three ops (``torch.ops.ddfast.conv3x3``, ``_input_gradient``,
    ``_weight_gradient``) has the two others as gradients.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016 (arXiv 1509.09308).

    Args:
        x: float32, float64, bfloat16 or float16 [N, I, H, W], fastest in channels-last order.
        w: filters of the same type [O, I, 3, 3].

    Returns:
        [N, O, H, W] in channels-last order.

    Raises:
        TypeError, ValueError: wrong type, shape or device.
    """
    _checks.check_tensor("x", x, _FLOATS, (None, None, None, None))
    _checks.check_tensor("w", w, x.dtype, (None, x.shape[1], 3, 3))
    _checks.check_device(x, w=w)
    result: Tensor = torch.ops.ddfast.conv3x3(x, w)
    return result


def _like(x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


VALUE = _registry.define(
    "conv3x3(Tensor x, Tensor w) -> Tensor",
    reference.conv3x3,
    fake=lambda x, w: _like(x, x.shape[0], w.shape[0], x.shape[2], x.shape[3]),
)
INPUT_GRADIENT = _registry.define(
    "conv3x3_input_gradient(Tensor g, Tensor w) -> Tensor",
    reference.input_gradient,
    fake=lambda g, w: _like(g, g.shape[0], w.shape[1], g.shape[2], g.shape[3]),
)
WEIGHT_GRADIENT = _registry.define(
    "conv3x3_weight_gradient(Tensor g, Tensor x) -> Tensor",
    reference.weight_gradient,
    fake=lambda g, x: _like(g, g.shape[1], x.shape[1], 3, 3),
)
VALUE.add_backend("cpp", native.value, rejects=native.rejects_filters)
INPUT_GRADIENT.add_backend("cpp", native.input_gradient, rejects=native.rejects_filters)
WEIGHT_GRADIENT.add_backend("cpp", native.weight_gradient, rejects=native.rejects_planes)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _value_rule(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    x, w = ctx.saved_tensors
    return torch.ops.ddfast.conv3x3_input_gradient(u, w), torch.ops.ddfast.conv3x3_weight_gradient(u, x)


def _input_rule(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    g, w = ctx.saved_tensors
    return torch.ops.ddfast.conv3x3(u, w), torch.ops.ddfast.conv3x3_weight_gradient(g, u)


def _weight_rule(ctx: Any, u: Tensor) -> tuple[Tensor, Tensor]:
    g, x = ctx.saved_tensors
    return torch.ops.ddfast.conv3x3(x, u), torch.ops.ddfast.conv3x3_input_gradient(g, u)


for _name, _rule in (("", _value_rule), ("_input_gradient", _input_rule), ("_weight_gradient", _weight_rule)):
    torch.library.register_autograd(f"ddfast::conv3x3{_name}", _rule, setup_context=_keep, lib=_registry._LIB)
