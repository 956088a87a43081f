"""First derivatives of several networks of one architecture, each on a batch of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops as _registered  # noqa: F401 (defines torch.ops.ddfast)
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.adjoint.planes import PlaneStep
from ddfast.train.adjoint.step import class_targets
from ddfast.train.adjoint.unroll import make_step

WAYS = ("loop", "grouped")
_ops = torch.ops.ddfast
_EPS = 1e-5


class First(NamedTuple):
    """``losses`` [K], their gradients [K, P] in each theta, and the ``probabilities`` [K, B, classes] predicted."""

    losses: Tensor
    gradients: Tensor
    probabilities: Tensor


def groupable(net: FlatNet) -> bool:
    """Whether the way "grouped" knows an architecture: instance norm, average or no pooling."""
    return isinstance(net, FlatConvNet) and net.norm == "instance" and net.pool != "max"


def fastest_way(net: FlatNet, device: torch.device) -> str:
    """The way for a device: loop on a CPU, where grouped convolutions are slower (measured), grouped on a GPU, where a
    step of one small network is bound by launches (not measured)."""
    return "grouped" if device.type == "cuda" and groupable(net) else "loop"


class ManyStep:
    """Mean cross-entropy of K networks and its gradients.

    The way "loop" takes network after network, so that each one's numbers are those it has alone; "grouped" makes them
    one network of grouped convolutions with planes [B, K * width, h, w], equal to rounding.

    Args:
        net: the architecture.
        way: "loop", "grouped", or "auto" for the faster one on the device of the data.
        precision: as in `make_step`.

    Raises:
        ValueError: an unknown way or precision, or an architecture that "grouped" does not know.
    """

    def __init__(self, net: FlatNet, way: str = "auto", precision: str = "fp32") -> None:
        if way not in ("auto", *WAYS):
            raise ValueError(f"way: got {way!r}, expected auto, {', '.join(WAYS)}")
        if way == "grouped" and not groupable(net):
            raise ValueError(f"way: got 'grouped' for {net}, expected instance norm, and avg or no pool; use 'loop'")
        self.net, self.way, self.bf16 = net, way, precision == "bf16"
        self.single = make_step(net, precision)

    def first(self, thetas: Tensor, x: Sequence[Tensor], y: Sequence[Tensor]) -> First:
        """Losses and gradients.

        Args:
            thetas: parameters [K, P].
            x: for each network normalised pictures [B, c, H, W]; B is the same for all.
            y: for each network classes int64 [B], or probabilities [B, classes].
        """
        way = fastest_way(self.net, thetas.device) if self.way == "auto" else self.way
        if way == "grouped" and len(thetas) > 1:
            return self._grouped(thetas, x, y)
        each = [self._one(theta, *batch) for theta, *batch in zip(thetas, x, y, strict=True)]
        if len(each) == 1:  # without a copy
            return First(*(part[None] for part in each[0]))
        return First(*(torch.stack(parts) for parts in zip(*each, strict=True)))

    def _one(self, theta: Tensor, x: Tensor, y: Tensor) -> First:
        if isinstance(self.single, PlaneStep):
            loss, gradient, tape = self.single.first(theta, x, y)
            assert gradient is not None
            return First(loss, gradient, tape.probabilities)
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            log_p = F.log_softmax(self.net.logits(theta, x), 1)
            loss = -(class_targets(y, log_p) * log_p).sum() / len(x)
            (gradient,) = torch.autograd.grad(loss, theta)
        return First(loss.detach(), gradient, log_p.detach().exp())

    def _grouped(self, thetas: Tensor, x: Sequence[Tensor], y: Sequence[Tensor]) -> First:
        assert isinstance(self.net, FlatConvNet)
        net, k = self.net, len(thetas)
        tensors = net.split(thetas)
        convs = range(0, 4 * net.depth, 4)
        filters = [tensors[i].flatten(0, 1).contiguous(memory_format=torch.channels_last) for i in convs]
        affine = [(tensors[i + 2].reshape(-1), tensors[i + 3].reshape(-1)) for i in convs]
        head = tensors[-2]  # [K, classes, features]
        kept: list[tuple[Tensor, ...]] = []
        h = torch.cat(list(x), 1).contiguous(memory_format=torch.channels_last)
        for w, (gamma, beta) in zip(filters, affine, strict=True):
            a = F.conv2d(h, w, padding=1, groups=k)
            p, mean, rstd = _ops.plane_block(a, gamma, beta, net.pool == "avg", _EPS)
            kept.append((h, a, mean, rstd))
            h = p
        features = h.reshape(len(h), k, -1).transpose(0, 1)  # [K, B, channel * row * column], as theta orders them
        logits = torch.baddbmm(tensors[-1][:, None], features, head.transpose(1, 2))
        log_p = F.log_softmax(logits, 2)
        probabilities = log_p.exp()
        target = torch.stack([class_targets(each, log_p[0]) for each in y])
        go = (target.sum(2, keepdim=True) * probabilities - target) / log_p.shape[1]
        losses = -(target * log_p).sum((1, 2)) / log_p.shape[1]
        found = [go.sum(1), torch.bmm(go.transpose(1, 2), features)]
        gp = torch.bmm(go, head).transpose(0, 1).reshape(h.shape).contiguous(memory_format=torch.channels_last)
        gp = self._low(gp)
        for place in range(net.depth - 1, -1, -1):
            w = self._low(filters[place])
            h, a, mean, rstd = kept.pop()
            ga, ggamma, gbeta = _ops.plane_block_backward(gp, a, mean, rstd, *affine[place], net.pool == "avg")
            gp, gw, _ = torch.ops.aten.convolution_backward(
                ga, self._low(h), w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], k, [place > 0, True, False]
            )
            found += [gbeta, ggamma, torch.zeros_like(gbeta), gw.contiguous()]
        gradients = torch.cat([part.reshape(k, -1).to(thetas.dtype) for part in found[::-1]], 1)
        return First(losses, gradients, probabilities)

    def _low(self, x: Tensor) -> Tensor:
        """In the type of the convolutions of the derivatives."""
        return x.bfloat16() if self.bf16 else x
