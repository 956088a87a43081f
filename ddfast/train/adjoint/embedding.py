"""Features before the linear layer, and their first derivatives in the pictures (DM's embedding)."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ddfast import ops as _registered  # noqa: F401 (defines torch.ops.ddfast)
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint.planes import Block, PlaneStep, flat, input_gradient, unflat

_ops = torch.ops.ddfast


class Embedding(Protocol):
    """``features(theta, x)`` [n, F] of pictures; their order within a row is the embedding's own."""

    def first(self, theta: Tensor, x: Tensor, *, tape: bool = True) -> tuple[Tensor, Any]:
        """Features, and a tape for `images` (of no use without ``tape``)."""

    def images(self, theta: Tensor, g: Tensor, tape: Any) -> Tensor:
        """d/dx of ``sum(g * features)``, g [n, F]."""


def make_embedding(net: FlatConvNet, precision: str = "fp32") -> Embedding:
    """The fastest `Embedding` for an architecture.

    Raises:
        ValueError: bf16 for an architecture without instance norm, or with max pooling.
    """
    if net.norm == "instance" and net.pool != "max":
        return PlaneEmbedding(net, precision)
    if precision not in ("fp32", "tf32"):
        raise ValueError(f"precision: got {precision!r} for norm {net.norm!r} of {net}; expected 'fp32'")
    return AutogradEmbedding(net)


class PlaneEmbedding:
    """An `Embedding` for FlatConvNets with instance norm and average or no pooling.

    ``precision="bf16"`` does all convolutions in bfloat16, so that real and synthetic pictures see one network.
    """

    def __init__(self, net: FlatConvNet, precision: str = "fp32") -> None:
        self.step = PlaneStep(net, precision)

    def first(self, theta: Tensor, x: Tensor, *, tape: bool = True) -> tuple[Tensor, list[Block]]:
        """See `Embedding`."""
        kept = self.step.forward(self.step.split(theta, low=True)[0], self.step.low(x))
        return flat(kept[-1].gp, theta), kept

    def images(self, theta: Tensor, g: Tensor, tape: list[Block]) -> Tensor:
        """See `Embedding`."""
        blocks = self.step.split(theta, low=True)[0]
        gp = self.step.low(unflat(g, tape[-1].gp))
        for kept, block in zip(reversed(tape), reversed(blocks), strict=True):
            ga = _ops.plane_block_backward(gp, kept.a, kept.mean, kept.rstd, block.gamma, block.beta, self.step.pool)[0]
            gp = input_gradient(ga, block.conv)
        return gp.to(theta.dtype)


class AutogradEmbedding:
    """An `Embedding` by torch, for every norm and pool."""

    def __init__(self, net: FlatConvNet) -> None:
        self.net = net

    def first(self, theta: Tensor, x: Tensor, *, tape: bool = True) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """See `Embedding`."""
        with torch.enable_grad():
            inputs = x.detach().requires_grad_(tape)
            features = self.net.features(theta.detach(), inputs)
        return features.detach(), (inputs, features)

    def images(self, theta: Tensor, g: Tensor, tape: tuple[Tensor, Tensor]) -> Tensor:
        """See `Embedding`."""
        inputs, features = tape
        return torch.autograd.grad(features, inputs, g)[0]
