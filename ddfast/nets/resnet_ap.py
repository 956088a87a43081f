"""ResNet-AP: ResNets that average-pool where others stride, the matching network of IDC on ImageNet."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .basic_resnet import STAGES
from .convnet import NORMS, norm_layer
from .flat_net import join_flat, split_flat

INTRO = 64  # up to this side the first layer does not pool
LARGE = 128  # above this side it is 7x7


class PooledBlock(nn.Module):
    """Two 3x3 convolutions of stride 1; the first one's output and the shortcut are pooled by ``pool``."""

    def __init__(self, in_planes: int, planes: int, pool: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        self.conv1 = nn.Conv2d(in_planes, planes, 3, 1, 1, bias=bias)
        self.bn1 = norm_layer(norm, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=bias)
        self.bn2 = norm_layer(norm, planes)
        shortcut = (nn.Conv2d(in_planes, planes, 1, bias=bias), nn.AvgPool2d(pool), norm_layer(norm, planes))
        self.downsample = nn.Sequential(*shortcut) if pool != 1 or in_planes != planes else None
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        if self.pool != 1:
            y = F.avg_pool2d(y, self.pool)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNetAP(nn.Module):
    """ResNet of basic blocks with average pooling instead of strides (IDC: Kim et al., ICML 2022, arXiv 2205.14959).

    Stages of ``width`` * (1, 2, 4, 8) channels behind an intro layer that depends on the input's side S: up to 64
    pixels a 3x3 convolution, up to 128 the same with 2x2 pooling, above a 7x7 convolution with 4x4 pooling. Then global
    average pooling and a linear layer. Input [n, channels, S, S], logits [n, num_classes]. ``norm`` as in `ConvNet`.

    Raises:
        ValueError: unknown depth or norm, or pictures too small for three poolings.
    """

    def __init__(
        self, layers: int = 10, num_classes: int = 1000, input_size: int = 224, norm: str = "instance",
        width: int = 64, channels: int = 3,
    ) -> None:  # fmt: skip
        super().__init__()
        if layers not in STAGES:
            raise ValueError(f"layers: got {layers}, expected {' or '.join(map(str, STAGES))}")
        if input_size < 16:  # so that the last planes have more than one pixel, which instance norm needs
            raise ValueError(f"input_size: got {input_size} for ResNet-AP, expected at least 16")
        kernel = 7 if input_size > LARGE else 3
        self.conv1 = nn.Conv2d(channels, width, kernel, 1, kernel // 2, bias=norm == "none")
        self.bn1 = norm_layer(norm, width)
        self.intro = 4 if input_size > LARGE else 2 if input_size > INTRO else 1
        planes = (width, width, 2 * width, 4 * width, 8 * width)
        for stage, blocks in enumerate(STAGES[layers], start=1):
            first = PooledBlock(planes[stage - 1], planes[stage], 1 if stage == 1 else 2, norm)
            rest = (PooledBlock(planes[stage], planes[stage], 1, norm) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(planes[-1], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        if self.intro != 1:
            x = F.avg_pool2d(x, self.intro)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


@dataclass(frozen=True)
class FlatResNetAP:
    """`ResNetAP` with its parameters in one vector theta, in the order of ``module.parameters()``.

    The members are those of `FlatConvNet`. Batch norm, whose running statistics theta does not hold, is not offered.

    Raises:
        ValueError: unknown depth or norm, or pictures too small.
    """

    num_classes: int = 10
    input_size: int = 224
    depth: int = 10
    width: int = 64
    norm: str = "instance"
    channels: int = 3

    def __post_init__(self) -> None:
        known = [norm for norm in NORMS if norm != "batch"]
        if self.norm not in known:
            raise ValueError(f"norm: got {self.norm!r}, expected one of {', '.join(known)}")
        _template(self)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors in theta, in order."""
        return [tuple(parameter.shape) for parameter in _template(self).parameters()]

    @property
    def size(self) -> int:
        """Length of theta."""
        return sum(parameter.numel() for parameter in _template(self).parameters())

    def split(self, theta: Tensor) -> list[Tensor]:
        """Views of theta [size] (or [..., size]) as tensors of ``shapes``.

        Raises:
            ValueError: another length.
        """
        return split_flat(theta, self.shapes, self)

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        """theta of tensors in the order of ``shapes``.

        Raises:
            ValueError: other shapes.
        """
        return join_flat(tensors, self.shapes, self)

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """A fresh theta: convolutions normal with variance 2 / (k k channels out), norms 1 and 0, the linear layer
        uniform in +- 1 / sqrt(fan in)."""
        tensors = []
        bound = 1.0
        for name, parameter in _template(self).named_parameters():
            shape = parameter.shape
            if len(shape) == 4:
                bound = (shape[1] * shape[2] * shape[3]) ** -0.5
                scale = (2 / (shape[0] * shape[2] * shape[3])) ** 0.5
                tensors.append(torch.randn(shape, generator=generator, dtype=dtype) * scale)
                continue
            if len(shape) == 2:
                bound = shape[1] ** -0.5
            if len(shape) == 2 or self._is_bias(name):
                tensors.append((torch.rand(shape, generator=generator, dtype=dtype) * 2 - 1) * bound)
            else:
                tensors.append(torch.full(shape, float(name.endswith("weight")), dtype=dtype))
        return self.join(tensors)

    def _is_bias(self, name: str) -> bool:
        """Of a convolution or the linear layer, not of a norm."""
        return name.endswith("bias") and (self.norm == "none" or name.startswith("fc"))

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """[n, num_classes] of normalised pictures [n, channels, input_size, input_size]."""
        net = _template(self)
        names = [name for name, _ in net.named_parameters()]
        weights = dict(zip(names, self.split(theta), strict=True))
        logits: Tensor = torch.func.functional_call(net, weights, (x,))
        return logits

    def module(self, theta: Tensor) -> ResNetAP:
        """The same network as a module."""
        net = ResNetAP(self.depth, self.num_classes, self.input_size, self.norm, self.width, self.channels)
        net = net.to(theta.dtype)
        with torch.no_grad():
            for parameter, value in zip(net.parameters(), self.split(theta), strict=True):
                parameter.copy_(value)
        return net

    def flatten(self, net: ResNetAP) -> Tensor:
        """theta of a module of this architecture (detached)."""
        return self.join(parameter.detach() for parameter in net.parameters())


@functools.lru_cache(maxsize=8)
def _template(net: FlatResNetAP) -> ResNetAP:
    """A module without memory, whose parameters are always replaced."""
    with torch.device("meta"):
        return ResNetAP(net.depth, net.num_classes, net.input_size, net.norm, net.width, net.channels)
