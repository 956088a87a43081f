"""Depthwise convolutions by shifts equal torch's, and float64 forwards use them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddfast.nets.double import depthwise
from ddfast.nets.forward import build_forward
from ddfast.nets.observers import load_observer


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "dilation"), [((3, 3), 1), ((5, 3), 1), ((3, 3), 2), ((1, 1), 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_equals_conv2d(stride: int, kernel: tuple[int, int], dilation: int, bias: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 6, 13, 11, dtype=torch.float64)
    weight, shift = torch.randn(6, 1, *kernel, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    geometry = ([stride] * 2, [1, 2], [dilation] * 2)
    found = depthwise(x, weight, shift if bias else None, *geometry, 6)
    torch.testing.assert_close(found, F.conv2d(x, weight, shift if bias else None, *geometry, groups=6))


def test_a_network_with_depthwise_layers_in_float64() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    forward = build_forward(load_observer(net, input_size=24), patch=12, canvas=24, precision="fp64")
    patches = torch.randn(3, 3, 12, 12, dtype=torch.float64)
    wanted = net.double()(F.pad(patches, (6, 6, 6, 6)))
    torch.testing.assert_close(forward(patches), wanted, rtol=1e-12, atol=1e-12)
    engine = forward._engine.module
    assert any(node.target is depthwise for node in engine.graph.nodes)
