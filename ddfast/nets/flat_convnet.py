"""ConvNets of the matching methods as a function of one flat parameter vector, in the field's buffer order."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast.nets.convnet import NORMS, ConvNet
from ddfast.nets.flat_net import join_flat, split_flat

POOLS = ("avg", "max", "none")


@dataclass(frozen=True)
class FlatConvNet:
    """ConvNet-d (DC, DSA, DM, MTT) whose parameters are one vector theta of ``size`` numbers.

    A block is a 3x3 convolution (padding 1, bias), norm, ReLU and pool; a linear layer on the features flattened in
    [channel, row, column] order follows. theta holds, block by block, convolution weight and bias, norm weight and bias
    (absent for norm "none"), then the linear layer's weight and bias: the order of MTT's ``replay_buffer`` files. Norms
    are "instance" (a group a channel), "group" (four groups), "batch" (of the batch at hand, as matching nets are only
    ever run in training mode) and "none".
    """

    num_classes: int = 10
    input_size: int = 32
    depth: int = 3
    width: int = 128
    norm: str = "instance"
    pool: str = "avg"
    channels: int = 3

    def __post_init__(self) -> None:
        for name, value, known in (("norm", self.norm, NORMS), ("pool", self.pool, POOLS)):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        for name, count in (("num_classes", self.num_classes), ("depth", self.depth), ("width", self.width)):
            if count < 1:
                raise ValueError(f"{name}: got {count!r}, expected 1 or more")
        if self.side < 1:
            raise ValueError(
                f"input_size: got {self.input_size} for depth {self.depth}, expected at least {2**self.depth}"
            )

    @property
    def side(self) -> int:
        """Of the last feature planes in pixels."""
        return self.input_size if self.pool == "none" else self.input_size >> self.depth

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors in theta, in order."""
        found: list[tuple[int, ...]] = []
        for block in range(self.depth):
            found += [(self.width, self.width if block else self.channels, 3, 3), (self.width,)]
            found += [] if self.norm == "none" else [(self.width,), (self.width,)]
        return [*found, (self.num_classes, self.width * self.side**2), (self.num_classes,)]

    @property
    def size(self) -> int:
        """Length of theta."""
        return sum(math.prod(shape) for shape in self.shapes)

    def split(self, theta: Tensor) -> list[Tensor]:
        """Views of theta [size] (or [..., size]) as tensors of ``shapes``.

        Raises:
            ValueError: another length.
        """
        return split_flat(theta, self.shapes, self)

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        """theta of tensors in the order of ``shapes``, such as one snapshot of a ``replay_buffer`` file.

        Raises:
            ValueError: other shapes.
        """
        return join_flat(tensors, self.shapes, self)

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """A fresh theta: uniform in +- 1 / sqrt(fan in) as PyTorch initialises layers, norms 1 and 0."""
        tensors = []
        bound = 1.0
        for place, shape in enumerate(self.shapes):
            if len(shape) > 1:
                bound = 1 / math.sqrt(math.prod(shape[1:]))
            kind = place % (2 if self.norm == "none" else 4) if place < len(self.shapes) - 2 else 0
            if kind >= 2:
                tensors.append(torch.full(shape, 3.0 - kind, dtype=dtype))
            else:
                tensors.append((torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound)
        return self.join(tensors)

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """[n, num_classes] of normalised pictures [n, channels, input_size, input_size], in plain torch."""
        weight, bias = self.split(theta)[-2:]
        return F.linear(self.features(theta, x), weight, bias)

    def features(self, theta: Tensor, x: Tensor) -> Tensor:
        """[n, width * side ** 2], the input of the linear layer (DM's embedding)."""
        tensors = iter(self.split(theta))
        for _ in range(self.depth):
            x = F.conv2d(x, next(tensors), next(tensors), padding=1)
            if self.norm != "none":
                x = self._normalised(x, next(tensors), next(tensors))
            x = F.relu(x)
            if self.pool != "none":
                x = F.avg_pool2d(x, 2) if self.pool == "avg" else F.max_pool2d(x, 2)
        return x.flatten(1)

    def _normalised(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.norm == "batch":
            return F.batch_norm(x, None, None, weight, bias, training=True)
        return F.group_norm(x, self.width if self.norm == "instance" else 4, weight, bias)

    def module(self, theta: Tensor) -> ConvNet:
        """The same network as `ddfast.nets.ConvNet`, for students and observers (average pooling only).

        Raises:
            ValueError: another pool than "avg", or other than three channels.
        """
        if self.pool != "avg" or self.channels != 3:
            raise ValueError(f"pool, channels: got {self.pool!r} and {self.channels}, expected 'avg' and 3")
        net = ConvNet(self.depth, self.num_classes, self.input_size, width=self.width, norm=self.norm)
        with torch.no_grad():
            for parameter, value in zip(_in_order(net), self.split(theta), strict=True):
                parameter.copy_(value)
        return net

    def flatten(self, net: ConvNet) -> Tensor:
        """theta of a `ddfast.nets.ConvNet` of this architecture (detached)."""
        return self.join(parameter.detach() for parameter in _in_order(net))


def _in_order(net: ConvNet) -> list[nn.Parameter]:
    blocks = [
        parameter
        for block in range(net.depth)
        for kind in ("conv", "norm")
        for parameter in net.get_submodule(f"layers.{kind}.{block}").parameters()
    ]
    return [*blocks, *net.classifier.parameters()]
