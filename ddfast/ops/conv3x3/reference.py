"""The definition of conv3x3 and its two gradients in plain torch; planes come out channels-last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_SHAPE = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def conv3x3(x: Tensor, w: Tensor) -> Tensor:
    """``y[o] = sum over i, k, l of w[o, i, k, l] x[i]`` shifted by (k - 1, l - 1), zero outside."""
    return F.conv2d(x, w, padding=1).contiguous(memory_format=torch.channels_last)


def input_gradient(g: Tensor, w: Tensor) -> Tensor:
    """Of ``<conv3x3(x, w), g>`` in x."""
    x = g.new_empty(1).expand(len(g), w.shape[1], *g.shape[2:])  # its shape alone matters
    found: Tensor = torch.ops.aten.convolution_backward(g, x, w, None, *_SHAPE, [True, False, False])[0]
    return found.contiguous(memory_format=torch.channels_last)


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """Of ``<conv3x3(x, w), g>`` in w."""
    w = g.new_empty(1).expand(g.shape[1], x.shape[1], 3, 3)
    found: Tensor = torch.ops.aten.convolution_backward(g, x, w, None, *_SHAPE, [False, True, False])[1]
    return found.contiguous(memory_format=torch.channels_last)
