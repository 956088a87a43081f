"""Derivatives for matching gradients class by class: one theta, a batch of each class, a gradient of each batch.

Only tensors of two or more dimensions are matched (DC: Zhao et al., ICLR 2021), so entries of biases and norms are zero
in every gradient and are not read of a direction: ``g . v`` is over the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops as _registered  # noqa: F401 (defines torch.ops.ddfast)
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.adjoint.planes import (
    PlaneStep,
    Tape,
    convolution,
    flat,
    input_gradient,
    takes_planes,
    unflat,
    weight_gradient,
)
from ddfast.train.adjoint.step import class_targets

_ops = torch.ops.ddfast


class ClassStep(Protocol):
    """Derivatives of each class's mean cross-entropy; see `make_class_step`."""

    def first(
        self, theta: Tensor, x: Tensor, y: Tensor, sizes: Sequence[int], *, tape: bool = True
    ) -> tuple[Tensor, Tensor, Any]:
        """Losses [C], their gradients in theta [C, P], and a tape for `second_images` (of no use without ``tape``).

        Args:
            theta: flat parameters [P].
            x: normalised pictures [sum(sizes), c, H, W], those of a class neighbours.
            y: classes int64 [n], or probabilities [n, classes].
            sizes: pictures of each class, 1 or more.
        """

    def second_images(self, theta: Tensor, v: Tensor, tape: Any, *, rows: Tensor | None = None) -> Tensor:
        """d/dx of ``sum_c g_c . v_c`` for pictures ``rows`` (ascending int64; None for all), v [C, P]."""


def make_class_step(net: FlatNet, precision: str = "fp32") -> ClassStep:
    """The fastest `ClassStep` for an architecture.

    Raises:
        ValueError: bf16 for another architecture than a ConvNet with instance norm and average or no pooling.
    """
    if isinstance(net, FlatConvNet) and takes_planes(net, precision):
        return ClassPlanes(net, precision)
    return ClassAutograd(net)


def mean_gradients(
    step: ClassStep, theta: Tensor, x: Tensor, y: Tensor, sizes: Sequence[int], *, limit: int | None
) -> Tensor:
    """Gradients [C, P] of `ClassStep.first`, of at most ``limit`` pictures at a time (None: of a class at a time)."""
    found = theta.new_zeros(len(sizes), theta.shape[0])
    for rows, pieces in _parts(sizes, limit):
        part = step.first(theta, x[rows], y[rows], [count for _, count in pieces], tape=False)[1]
        for (label, count), gradient in zip(pieces, part, strict=True):
            found[label].add_(gradient, alpha=count / sizes[label])
    return found


def _parts(sizes: Sequence[int], limit: int | None) -> Iterator[tuple[slice, list[tuple[int, int]]]]:
    """Runs of rows, and the classes they hold with their counts; a large class in parts of nearly one size."""
    start, pieces = 0, list[tuple[int, int]]()
    for label, size in enumerate(sizes):
        count = 1 if limit is None else -(-size // limit)
        for part in range(count):
            piece = (part + 1) * size // count - part * size // count
            held = sum(n for _, n in pieces)
            if pieces and (limit is None or held + piece > limit):
                yield slice(start, start + held), pieces
                start, pieces = start + held, []
            pieces.append((label, piece))
    if pieces:
        yield slice(start, start + sum(n for _, n in pieces)), pieces


@dataclass
class ClassTape:
    """`Tape` of the whole batch; ``share`` [n, 1] is one over the size of each row's class."""

    whole: Tape
    sizes: list[int]
    share: Tensor


class ClassPlanes:
    """A `ClassStep` for FlatConvNets with instance norm and average or no pooling: all classes in one batch.

    Only the gradients of the weights, and in `second_images` the convolutions with v, are done class by class.

    With ``precision="bf16"`` the forward pass is exact as in `PlaneStep`, but in bfloat16 where no tape is wanted: the
    gradient of many pictures is off by 0.5 % of its length then, where that of other pictures of the class is off by
    13 % (measured, 256 pictures of CIFAR-10).
    """

    def __init__(self, net: FlatConvNet, precision: str = "fp32") -> None:
        self.net, self.step = net, PlaneStep(net, precision)

    def first(
        self, theta: Tensor, x: Tensor, y: Tensor, sizes: Sequence[int], *, tape: bool = True
    ) -> tuple[Tensor, Tensor, ClassTape]:
        """See `ClassStep`."""
        blocks, head, bias = self.step.split(theta, low=not tape)
        kept = self.step.forward(blocks, x if tape else self.step.low(x))
        features = flat(kept[-1].gp, theta)
        log_p = F.log_softmax(F.linear(features, head, bias), 1)
        target = class_targets(y, log_p)
        listed, counts = list(sizes), torch.tensor(sizes)
        share = (1 / counts.to(theta.dtype)).repeat_interleave(counts)[:, None].to(theta.device)
        mass, p = target.sum(1, keepdim=True), log_p.exp()
        whole = Tape(kept, features, p, mass, (mass * p - target) * share)
        losses = torch.stack([-part.sum() / len(part) for part in (target * log_p).split(listed)])
        low = [replace(block, conv=self.step.low(block.conv)) for block in blocks]
        found = theta.new_zeros(len(listed), theta.shape[0])
        places = self.net.split(found)
        self._fill_head(places[-2], whole, listed)
        gp = self.step.low(unflat(whole.go @ head, kept[-1].gp))
        for place in range(len(low) - 1, -1, -1):
            layer, block = kept[place], low[place]
            layer.gp = gp
            ga = _ops.plane_block_backward(
                gp, layer.a, layer.mean, layer.rstd, block.gamma, block.beta, self.step.pool
            )[0]
            for into, g, inputs in zip(places[4 * place], ga.split(listed), layer.x.split(listed), strict=True):
                into.copy_(weight_gradient(g, inputs, block.conv))
            if place > 0:
                gp = input_gradient(ga, block.conv)
        return losses, found, ClassTape(whole, listed, share)

    def second_images(self, theta: Tensor, v: Tensor, tape: ClassTape, *, rows: Tensor | None = None) -> Tensor:
        """See `ClassStep`."""
        blocks, head, _ = self.step.split(theta, low=True)
        along = [self.step.split(each, low=True) for each in v]
        convs = [[each[0][place].conv for each in along] for place in range(len(blocks))]
        whole, sizes, zero = tape.whole, tape.sizes, torch.zeros_like(blocks[0].gamma)
        tangents: list[tuple[Tensor, Tensor, Tensor]] = []
        dx: Tensor | None = None
        for kept, block, directions in zip(whole.blocks, blocks, convs, strict=True):
            da = torch.cat([
                convolution(x, w) for x, w in zip(kept.x.split(sizes), directions, strict=True)
            ])  # fmt: skip
            if dx is not None:
                da += convolution(dx, block.conv)
            dx, dmean, cov = _ops.plane_block_tangent(
                kept.a, da, kept.mean, kept.rstd, block.gamma, block.beta, zero, zero, self.step.pool
            )
            tangents.append((da, dmean, cov))
        heads = [each[1] for each in along]
        do = F.linear(flat(dx, theta), head) + _class_products(whole.features, [w.T for w in heads], sizes)
        centred = do - (whole.probabilities * do).sum(1, keepdim=True)
        dgo = tape.share * whole.mass * whole.probabilities * centred
        dgp = unflat(dgo @ head + _class_products(whole.go, heads, sizes), dx)
        for place in range(len(blocks) - 1, -1, -1):
            kept, block = whole.blocks[place], blocks[place]
            da, dmean, cov = tangents.pop()
            ga, dga, _, _ = _ops.plane_block_tangent_backward(
                kept.gp, dgp, kept.a, da, kept.mean, kept.rstd, dmean, cov, block.gamma, block.beta, zero,
                self.step.pool,
            )  # fmt: skip
            if place == 0 and rows is not None:
                ga, dga, sizes = ga[rows], dga[rows], _chosen(sizes, rows)
            dgp = input_gradient(dga, block.conv)
            for into, g, w in zip(dgp.split(sizes), ga.split(sizes), convs[place], strict=True):
                if len(g):
                    into.add_(input_gradient(g, w))
        return dgp.to(theta.dtype)

    def _fill_head(self, into: Tensor, whole: Tape, sizes: list[int]) -> None:
        """The linear layer's gradients, whose inputs are ordered [row, column, channel] on the tape."""
        side, width = self.net.side, self.net.width
        pairs = zip(into, whole.go.split(sizes), whole.features.split(sizes), strict=True)
        for each, go, features in pairs:
            gradient = (go.T @ features).reshape(-1, side, side, width).permute(0, 3, 1, 2)
            each.view(-1, width, side, side).copy_(gradient)


def _class_products(rows: Tensor, matrices: Sequence[Tensor], sizes: list[int]) -> Tensor:
    return torch.cat([part @ matrix for part, matrix in zip(rows.split(sizes), matrices, strict=True)])


def _chosen(sizes: list[int], rows: Tensor) -> list[int]:
    """How many of ``rows`` are of each class."""
    ends = torch.tensor(sizes).cumsum(0)
    labels = torch.searchsorted(ends, rows.cpu(), right=True)
    found: list[int] = torch.bincount(labels, minlength=len(sizes)).tolist()
    return found


class ClassAutograd:
    """A `ClassStep` by torch's own second derivatives, class after class; for every architecture."""

    def __init__(self, net: FlatNet) -> None:
        self.net = net

    def first(
        self, theta: Tensor, x: Tensor, y: Tensor, sizes: Sequence[int], *, tape: bool = True
    ) -> tuple[Tensor, Tensor, list[tuple[Tensor, list[Tensor]]]]:
        """See `ClassStep`."""
        losses, kept = [], []
        with torch.enable_grad():
            for part, labels in zip(x.split(list(sizes)), y.split(list(sizes)), strict=True):
                leaves = [each.detach().requires_grad_() for each in self.net.split(theta)]
                inputs = part.detach().requires_grad_(tape)
                log_p = F.log_softmax(self.net.logits(torch.cat([each.reshape(-1) for each in leaves]), inputs), 1)
                loss = -(class_targets(labels, log_p) * log_p).sum() / len(part)
                matched = [each for each in leaves if each.ndim > 1]
                kept.append((inputs, list(torch.autograd.grad(loss, matched, create_graph=tape))))
                losses.append(loss.detach())
        found = theta.new_zeros(len(losses), theta.shape[0])
        for into, (_, gradients) in zip(found, kept, strict=True):
            for place, gradient in zip(self._matched(into), gradients, strict=True):
                place.copy_(gradient.detach())
        return torch.stack(losses), found, kept

    def second_images(
        self, theta: Tensor, v: Tensor, tape: list[tuple[Tensor, list[Tensor]]], *, rows: Tensor | None = None
    ) -> Tensor:
        """See `ClassStep`."""
        found: list[Tensor] = []
        with torch.enable_grad():
            for direction, (inputs, gradients) in zip(v, tape, strict=True):
                found += torch.autograd.grad(gradients, inputs, self._matched(direction))
        images = torch.cat(found)
        return images if rows is None else images[rows]

    def _matched(self, theta: Tensor) -> list[Tensor]:
        return [each for each in self.net.split(theta) if each.ndim > 1]
