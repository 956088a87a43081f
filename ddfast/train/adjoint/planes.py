"""One training step of an instance-norm ConvNet with its second derivatives written out: no autograd graph.

Notation of `ddfast.ops.plane_block`; the direction v in parameter space has the parts V (convolution), vgamma, vbeta
(norm), and those of the linear layer. The tangent of the ordinary backward pass along v holds both H v (its weight
part) and d/dx (g . v) (its input part), so one sweep gives the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops as _registered  # noqa: F401 (defines torch.ops.ddfast)
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.adjoint.step import PRECISIONS, Second, class_targets

_ops = torch.ops.ddfast
EPS = 1e-5


@dataclass
class Block:
    """What a block's forward pass leaves: its input, planes and their statistics; later the gradient of its output."""

    x: Tensor
    a: Tensor
    mean: Tensor
    rstd: Tensor
    gp: Tensor


@dataclass
class Tape:
    """What a step's first derivatives leave for the second ones; ``mass`` is the sum of each row's label."""

    blocks: list[Block]
    features: Tensor
    probabilities: Tensor
    mass: Tensor
    go: Tensor


@dataclass
class Weights:
    """Of one block, as the convolutions take them."""

    conv: Tensor
    gamma: Tensor
    beta: Tensor


def takes_planes(net: FlatNet, precision: str) -> bool:
    """Whether steps of ``net`` go by planes (ConvNets with instance norm and average or no pooling); else by autograd.

    Raises:
        ValueError: ``precision`` is bf16, which autograd's steps do not offer.
    """
    if isinstance(net, FlatConvNet) and net.norm == "instance" and net.pool != "max":
        return True
    if precision not in ("fp32", "tf32"):
        raise ValueError(f"precision: got {precision!r} for norm {net.norm!r} of {net}; expected 'fp32'")
    return False


class PlaneStep:
    """A `Step` for FlatConvNets with instance norm and average or no pooling.

    ``precision="bf16"`` does all convolutions but those of the forward pass in bfloat16. The forward pass stays exact,
    since a ReLU that switches for rounding moves the gradient far more than the rounding itself (measured: 6 to 9 % of
    its length against 1 to 4 %). Statistics, the linear layer, theta and all sums stay in theta's type.
    """

    def __init__(self, net: FlatConvNet, precision: str = "fp32") -> None:
        if net.norm != "instance" or net.pool == "max":
            raise ValueError(f"net: got norm {net.norm!r} and pool {net.pool!r}, expected instance, and avg or none")
        if precision not in PRECISIONS:
            raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(PRECISIONS)}")
        self.net, self.pool, self.bf16 = net, net.pool == "avg", precision == "bf16"

    def first(self, theta: Tensor, x: Tensor, y: Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Tape]:
        """See `Step`."""
        blocks, head, bias = self.split(theta)
        kept = self.forward(blocks, x)
        features = flat(kept[-1].gp, theta)
        log_p = F.log_softmax(F.linear(features, head, bias), 1)
        target = class_targets(y, log_p)
        mass, p = target.sum(1, keepdim=True), log_p.exp()
        tape = Tape(kept, features, p, mass, (mass * p - target) / len(y))
        loss = -(target * log_p).sum() / len(y)
        gradient = self._backward([replace(b, conv=self.low(b.conv)) for b in blocks], head, tape, weights)
        return loss, gradient, tape

    def second(
        self, theta: Tensor, v: Tensor, tape: Tape, *, hessian: bool = True, rows: Tensor | None = None
    ) -> Second:
        """See `Step`."""
        blocks, head, _ = self.split(theta, low=True)
        directions, vhead, vbias = self.split(v, low=True)
        tangents: list[tuple[Tensor | None, Tensor, Tensor, Tensor]] = []
        dx: Tensor | None = None
        for kept, block, along in zip(tape.blocks, blocks, directions, strict=True):
            da = convolution(kept.x, along.conv)
            if dx is not None:
                da += convolution(dx, block.conv)
            dp, dmean, cov = _ops.plane_block_tangent(
                kept.a, da, kept.mean, kept.rstd, block.gamma, block.beta, along.gamma, along.beta, self.pool
            )
            tangents.append((dx, da, dmean, cov))
            dx = dp
        df = flat(dx, theta)
        do = F.linear(df, head) + F.linear(tape.features, vhead, vbias)
        centred = do - (tape.probabilities * do).sum(1, keepdim=True)
        dgo = tape.mass * tape.probabilities * centred / len(do)
        product = [dgo.sum(0), dgo.T @ tape.features + tape.go.T @ df]
        dgp = unflat(dgo @ head + tape.go @ vhead, dx)
        gradient: Tensor | None = None
        for place in range(len(blocks) - 1, -1, -1):
            kept, block, along = tape.blocks[place], blocks[place], directions[place]
            dx, da, dmean, cov = tangents.pop()
            ga, dga, dggamma, dgbeta = _ops.plane_block_tangent_backward(
                kept.gp,
                dgp,
                kept.a,
                da,
                kept.mean,
                kept.rstd,
                dmean,
                cov,
                block.gamma,
                block.beta,
                along.gamma,
                self.pool,
            )
            if hessian:
                gw = weight_gradient(dga, kept.x, block.conv)
                gw = gw if dx is None else gw + weight_gradient(ga, dx, block.conv)
                product += [dgbeta, dggamma, torch.zeros_like(dgbeta), gw]
            if place == 0 and rows is not None:
                ga, dga = ga[rows], dga[rows]
            if len(ga) > 0:
                dgp = input_gradient(dga, block.conv).add_(input_gradient(ga, along.conv))
                gradient = dgp
        return Second(
            self._join(product) if hessian else None,
            None if gradient is None or len(ga) == 0 else gradient.to(theta.dtype),
            (tape.go * do).sum(),
            -centred / len(do),
        )

    def forward(self, blocks: list[Weights], x: Tensor) -> list[Block]:
        """All blocks; ``gp`` of each holds its output until a backward pass."""
        x = x.contiguous(memory_format=torch.channels_last)
        kept = []
        for block in blocks:
            a = convolution(x, block.conv)
            p, mean, rstd = _ops.plane_block(a, block.gamma, block.beta, self.pool, EPS)
            kept.append(Block(self.low(x), a, mean, rstd, p))
            x = p
        return kept

    def _backward(self, blocks: list[Weights], head: Tensor, tape: Tape, weights: bool) -> Tensor | None:
        """The backward pass; leaves each block's gp on the tape."""
        found = [tape.go.sum(0), tape.go.T @ tape.features]
        gp = self.low(unflat(tape.go @ head, tape.blocks[-1].gp))
        for place in range(len(blocks) - 1, -1, -1):
            kept, block = tape.blocks[place], blocks[place]
            kept.gp = gp
            if place == 0 and not weights:
                return None
            ga, ggamma, gbeta = _ops.plane_block_backward(
                gp, kept.a, kept.mean, kept.rstd, block.gamma, block.beta, self.pool
            )
            if weights:
                found += [gbeta, ggamma, torch.zeros_like(gbeta), weight_gradient(ga, kept.x, block.conv)]
            if place > 0:
                gp = input_gradient(ga, block.conv)
        return self._join(found)

    def split(self, theta: Tensor, *, low: bool = False) -> tuple[list[Weights], Tensor, Tensor]:
        """Blocks and the linear layer, whose inputs are reordered to [row, column, channel]."""
        tensors = self.net.split(theta)
        blocks = []
        for i in range(0, 4 * self.net.depth, 4):
            conv = tensors[i].contiguous(memory_format=torch.channels_last)
            blocks.append(Weights(self.low(conv) if low else conv, tensors[i + 2], tensors[i + 3]))
        head = tensors[-2].reshape(-1, self.net.width, self.net.side, self.net.side).permute(0, 2, 3, 1)
        return blocks, head.reshape(len(head), -1), tensors[-1]

    def _join(self, found: list[Tensor]) -> Tensor:
        """A flat vector of what was found from the last tensor to the first."""
        bias, head, *rest = found
        side = self.net.side
        head = head.reshape(-1, side, side, self.net.width).permute(0, 3, 1, 2)
        parts = [part.reshape(-1).to(bias.dtype) for part in rest[::-1]]
        return torch.cat([*parts, head.reshape(-1), bias])

    def low(self, x: Tensor) -> Tensor:
        """In the type of the convolutions of the derivatives."""
        return x.bfloat16() if self.bf16 else x


def flat(x: Tensor | None, theta: Tensor) -> Tensor:
    """Channels-last planes as rows of theta's type."""
    assert x is not None
    return x.permute(0, 2, 3, 1).reshape(len(x), -1).to(theta.dtype)


def unflat(rows: Tensor, like: Tensor | None) -> Tensor:
    """The way back, in ``like``'s shape and type."""
    assert like is not None
    n, c, h, w = like.shape
    return rows.reshape(n, h, w, c).permute(0, 3, 1, 2).to(like.dtype)


_SHAPE = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


def convolution(x: Tensor, w: Tensor) -> Tensor:
    """3x3; on a CPU by the op with fewer products, elsewhere straight by torch, for less work a launch."""
    result: Tensor = _ops.conv3x3(x, w) if x.device.type == "cpu" else F.conv2d(x, w, padding=1)
    return result


def input_gradient(g: Tensor, w: Tensor) -> Tensor:
    """Of ``g . conv(x, w)`` in x."""
    if g.device.type == "cpu":
        found: Tensor = _ops.conv3x3_input_gradient(g, w)
        return found
    x = g.new_empty(1).expand(len(g), w.shape[1], *g.shape[2:])  # its shape alone matters
    result: Tensor = torch.ops.aten.convolution_backward(g, x, w, None, *_SHAPE, [True, False, False])[0]
    return result


def weight_gradient(g: Tensor, x: Tensor, w: Tensor) -> Tensor:
    """Of ``g . conv(x, w)`` in w."""
    if g.device.type == "cpu":
        found: Tensor = _ops.conv3x3_weight_gradient(g, x)
        return found
    result: Tensor = torch.ops.aten.convolution_backward(g, x, w, None, *_SHAPE, [False, True, False])[1]
    return result
