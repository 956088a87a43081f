"""VGG-11 and AlexNet for small pictures, students of the DC and MTT papers' cross-architecture tables and of D3's."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .convnet import norm_layer

# Channels in units of ``width``; 0 is 2x2 max pooling
_VGG11 = (1, 0, 2, 0, 4, 4, 0, 8, 8, 0, 8, 8, 0)
_MNIST, _PADDED = 28, 32  # pictures of 28 pixels are padded with zeros to 32, as that family's networks do


def padded_size(size: int) -> int:
    """Side that pictures of ``size`` pixels are padded to."""
    return _PADDED if size == _MNIST else size


class VGG11(nn.Module):
    """Eight 3x3 convolutions with norm and ReLU, five 2x2 max poolings, one linear layer.

    Channels ``width`` x (1, 2, 4, 4, 8, 8, 8, 8) (Simonyan & Zisserman, 2015, configuration A, without its two hidden
    linear layers); input [n, 3, S, S] with S >= 32, or 28, which is padded to 32; features ``8 * width * (S // 32)**2``
    in [channel, row, column] order; logits [n, num_classes]. ``norm`` as in `ConvNet`; instance norm in DC (Zhao et
    al., 2021), MTT (Cazenavette et al., 2022) and D3 (Qin et al., arXiv 2403.00999).

    Raises:
        ValueError: smaller pictures, whose last maps instance norm would leave nothing of.
    """

    def __init__(self, num_classes: int = 10, input_size: int = 32, width: int = 64, norm: str = "instance") -> None:
        super().__init__()
        side = padded_size(input_size) // 32
        if side < 1:
            raise ValueError(f"input_size: got {input_size} for VGG-11, expected 28 or at least 32")
        layers: list[nn.Module] = []
        channels = 3
        for times in _VGG11:
            if times:
                layers += [nn.Conv2d(channels, times * width, 3, padding=1), norm_layer(norm, times * width), nn.ReLU()]
                channels = times * width
            else:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, num_classes)
        self.margin = (padded_size(input_size) - input_size) // 2

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(_padded(x, self.margin)).flatten(1))
        return logits


class AlexNet(nn.Module):
    """Five convolutions with ReLU, no norm, three 2x2 max poolings, one linear layer.

    Convolutions 5x5, 5x5, 3x3, 3x3, 3x3 of stride 1 with ``width`` x (2, 3, 4, 3, 3) channels, pooled after the first,
    second and last; input [n, 3, S, S] with S >= 8, 28 padded to 32; features ``3 * width * (S // 8)**2``; logits
    [n, num_classes]. DC's reading of Krizhevsky et al., 2012, for small pictures (Zhao et al., 2021), with its linear
    layer widened for larger ones as in D3 (Qin et al., arXiv 2403.00999).

    Raises:
        ValueError: pictures too small for three poolings.
    """

    def __init__(self, num_classes: int = 10, input_size: int = 32, width: int = 64) -> None:
        super().__init__()
        side = padded_size(input_size) // 8
        if side < 1:
            raise ValueError(f"input_size: got {input_size} for AlexNet, expected at least 8")
        layers: list[nn.Module] = []
        channels = 3
        for times, kernel, pooled in ((2, 5, True), (3, 5, True), (4, 3, False), (3, 3, False), (3, 3, True)):
            layers += [nn.Conv2d(channels, times * width, kernel, padding=kernel // 2), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] * pooled
            channels = times * width
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * side * side, num_classes)
        self.margin = (padded_size(input_size) - input_size) // 2

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(_padded(x, self.margin)).flatten(1))
        return logits


def _padded(x: Tensor, margin: int) -> Tensor:
    return F.pad(x, (margin,) * 4) if margin else x
