"""ResNet-10 and ResNet-18 with a choice of norm and stem, the students of the dataset-distillation papers."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .convnet import norm_layer

STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2)}
STEMS = ("imagenet", "small")


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with norm; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, in_planes: int, planes: int, stride: int, norm: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride, 1, bias=False)
        self.bn1 = norm_layer(norm, planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = norm_layer(norm, planes)
        changes = stride != 1 or in_planes != planes
        shortcut = (nn.Conv2d(in_planes, planes, 1, stride, bias=False), norm_layer(norm, planes))
        self.downsample = nn.Sequential(*shortcut) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class BasicResNet(nn.Module):
    """ResNet of basic blocks (He et al., "Deep Residual Learning", 2016): stages of 64, 128, 256, 512 channels.

    Input [n, 3, S, S], logits [n, num_classes]. ``stem`` "imagenet": 7x7 stride 2 and max pooling; "small": 3x3 stride
    1 without pooling, for pictures up to 64 pixels. ``norm`` as in `ConvNet`. Parameter names and initialisation are
    those of torchvision's ResNets, so their batch-norm checkpoints of 18 layers load.

    Raises:
        ValueError: unknown depth, norm or stem.
    """

    def __init__(self, layers: int = 18, num_classes: int = 1000, norm: str = "batch", stem: str = "imagenet") -> None:
        super().__init__()
        if layers not in STAGES:
            raise ValueError(f"layers: got {layers}, expected {' or '.join(map(str, STAGES))}")
        if stem not in STEMS:
            raise ValueError(f"stem: got {stem!r}, expected {' or '.join(STEMS)}")
        small = stem == "small"
        self.conv1 = nn.Conv2d(3, 64, 3 if small else 7, 1 if small else 2, 1 if small else 3, bias=False)
        self.bn1 = norm_layer(norm, 64)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, 1)
        planes = (64, 64, 128, 256, 512)
        for stage, blocks in enumerate(STAGES[layers], start=1):
            first = BasicBlock(planes[stage - 1], planes[stage], 1 if stage == 1 else 2, norm)
            rest = (BasicBlock(planes[stage], planes[stage], 1, norm) for _ in range(blocks - 1))
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
        self.fc = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits
