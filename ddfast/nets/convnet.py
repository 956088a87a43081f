"""ConvNet-d, the small network of the dataset-distillation papers (DC, MTT, RDED)."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

NORMS = ("batch", "instance", "group", "none")


def norm_layer(kind: str, channels: int) -> nn.Module:
    """Normalisation by name: batch; instance (one group a channel); group (four groups); none."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "instance":
        return nn.GroupNorm(channels, channels)
    if kind == "group":
        return nn.GroupNorm(4, channels)
    if kind == "none":
        return nn.Identity()
    raise ValueError(f"norm: got {kind!r}, expected one of {', '.join(NORMS)}")


class ConvNet(nn.Module):
    """``depth`` blocks of 3x3 convolution (bias, padding 1), norm, ReLU and 2x2 average pooling, then a linear layer.

    Input [n, 3, S, S] with S >= 2**depth; features ``width * (S // 2**depth)**2``; logits [n, num_classes].
    Gidaris & Komodakis, "Dynamic Few-Shot Visual Learning without Forgetting", 2018, as used by DC (Zhao et al., 2021);
    RDED (Sun et al., 2024) takes batch norm and width 128.
    """

    def __init__(
        self, depth: int = 3, num_classes: int = 10, input_size: int = 32, width: int = 128, norm: str = "batch"
    ) -> None:
        super().__init__()
        side = input_size >> depth
        if depth < 1 or side < 1:
            raise ValueError(f"input_size: got {input_size} for depth {depth}, expected at least {2 ** max(depth, 1)}")
        # Parameter names are those of RDED's checkpoints: layers.conv.<d>, layers.norm.<d>, classifier.
        convs = [nn.Conv2d(width if block else 3, width, 3, padding=1) for block in range(depth)]
        norms = [norm_layer(norm, width) for _ in range(depth)]
        self.layers = nn.ModuleDict({"conv": nn.ModuleList(convs), "norm": nn.ModuleList(norms)})
        self.classifier = nn.Linear(width * side * side, num_classes)
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        for block in range(self.depth):
            conv, norm = self.get_submodule(f"layers.conv.{block}"), self.get_submodule(f"layers.norm.{block}")
            x = F.avg_pool2d(F.relu(norm(conv(x))), 2)
        logits: Tensor = self.classifier(x.flatten(1))
        return logits


def input_size_of(in_features: int, depth: int, width: int = 128) -> int:
    """Input side whose ConvNet-``depth`` has a linear layer of ``in_features`` inputs; ValueError when none fits."""
    side = round(math.sqrt(in_features / width))
    if side * side * width != in_features:
        raise ValueError(f"a linear layer of {in_features} inputs fits no ConvNet-{depth} of width {width}")
    return side << depth
