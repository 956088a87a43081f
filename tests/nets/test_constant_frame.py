from __future__ import annotations

import pytest
import torch
from nets_helpers import padded_forward, shaken
from torch import Tensor, nn

from ddfast.nets import ConvNet, load_observer
from ddfast.nets.constant_frame import Padded, constant_frame_module, frame_of

NAMES = ["resnet18", "mobilenet_v2", "efficientnet_b0", "vgg11", "alexnet", "timm:resnet18", "timm:resnet26d"]


def network(name: str) -> nn.Module:
    pytest.importorskip("torchvision")
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    return shaken(load_observer(name, random_weights=True).module)


def check(
    module: nn.Module, patch: int, canvas: int, style: str = "clamp", tolerance: float = 1e-12
) -> tuple[nn.Module, float]:
    """Asserts that skip and padding agree in float64, for two batch sizes, and returns the share of MACs."""
    module = module.double().eval()
    skipping, report = constant_frame_module(module, patch=patch, canvas=canvas, dtype=torch.float64, style=style)
    for n in (1, 3):
        x = torch.randn(n, 3, patch, patch, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
        want, got = padded_forward(module, x, canvas), skipping(x.contiguous(memory_format=torch.channels_last))
        assert got.shape == want.shape
        assert float((got - want).abs().max()) < tolerance * float(want.abs().max())
    return skipping, report.share


@pytest.mark.parametrize("name", NAMES)
def test_skip_equals_the_padded_forward(name: str) -> None:
    _, share = check(network(name), 64, 128)
    assert share < 1


@pytest.mark.parametrize("style", ["clamp", "shift"])
@pytest.mark.parametrize("patch", [43, 101, 4])
def test_odd_and_tiny_patches_of_resnet18(patch: int, style: str) -> None:
    check(network("resnet18"), patch, 128, style)


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg11", "alexnet"])
def test_odd_patches_of_other_networks(name: str) -> None:
    check(network(name), 43, 96, "shift")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "swin_v2_t", "densenet121", "timm:convnext_atto"])
def test_skip_equals_the_padded_forward_of_large_networks(name: str) -> None:
    check(network(name), 75, 224)


def test_efficientnet_lite_with_its_zero_pad_layers() -> None:
    pytest.importorskip("efficientnet_lite_pytorch")
    module = shaken(load_observer("efficientnet_lite0", random_weights=True).module)
    _, share = check(module, 112, 224, "shift")
    assert share == pytest.approx(0.8015, abs=5e-4)


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize(("patch", "canvas"), [(16, 32), (15, 32), (7, 32), (32, 32)])
def test_convnets(norm: str, patch: int, canvas: int) -> None:
    _, share = check(shaken(ConvNet(3, 10, canvas, width=16, norm=norm)), patch, canvas)
    assert share < 1 or patch == canvas or norm == "instance"


def test_resnet18_does_the_share_of_the_cone() -> None:
    _, report = constant_frame_module(network("resnet18"), patch=112, canvas=224)
    assert report.macs_total == pytest.approx(1.814e9, rel=1e-3)
    assert report.share == pytest.approx(0.749, abs=5e-4)
    sides = {layer.name: layer.active for layer in report.layers}
    names = ["conv1", *(f"layer{i}.{b}.conv{c}" for i in (1, 2) for b in (0, 1) for c in (1, 2))]
    assert [sides[n] for n in names] == [(n, n) for n in (59, 33, 35, 37, 39, 21, 23, 25, 27)]
    assert [la.full for la in report.layers][:2] == [(112, 112), (56, 56)]
    assert "layer3" in report.messages[0]


def test_a_network_that_looks_everywhere_says_so() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patchify = nn.Conv2d(3, 8, 4, 4)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patchify(x).flatten(2).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return self.head(mixed.mean(1))

    _, share = check(Attention(), 15, 32)
    assert share < 1
    _, report = constant_frame_module(Attention(), patch=15, canvas=32)
    assert "whole canvas from" in report.messages[0]


class Branches(nn.Module):
    """Concatenation, products, dilation, ceil-mode and overlapping pools, a lone batch norm, unequal windows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 5, 2, 2)
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4)
        self.side = nn.Conv2d(8, 8, (3, 1), padding=(1, 0))
        self.norm = nn.BatchNorm2d(16)
        self.max = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.avg = nn.AvgPool2d(3, 2, 1)
        self.last = nn.Conv2d(16, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.head = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.stem(x)) * self.stem(x)
        y = torch.cat([self.wide(x) - self.side(x), nn.functional.leaky_relu(x, 0.1)], 1)
        y = self.avg(self.max(nn.functional.relu6(self.norm(y))))
        return self.head((self.last(y) * self.scale + 0.25).mean((2, 3)))


@pytest.mark.parametrize("style", ["clamp", "shift"])
@pytest.mark.parametrize("patch", [9, 12, 31])
def test_every_rule_at_once(patch: int, style: str) -> None:
    torch.manual_seed(3)
    _, share = check(shaken(Branches()), patch, 64, style)
    assert share < 1


def test_an_overwritten_input_is_seen_by_later_readers() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            z = nn.functional.relu_(y)
            return (y + 2 * z).sum((2, 3))

    check(InPlace(), 8, 16)


def test_fallback_to_padding_when_the_graph_cannot_be_captured() -> None:
    class DataDependent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3)) * (2.0 if float(x.sum()) > 0 else 1.0)

    module, report = constant_frame_module(DataDependent(), patch=4, canvas=8)
    assert isinstance(module, Padded)
    assert report.share == 1
    assert "plain padding" in report.messages[0]
    x = torch.rand(2, 3, 4, 4)
    assert torch.equal(module(x), padded_forward(DataDependent(), x, 8))


def test_the_module_is_left_as_it_was() -> None:
    module = shaken(ConvNet(3, 10, 32, width=8)).train()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    constant_frame_module(module, patch=16, canvas=32, dtype=torch.float64)
    assert module.training
    assert all(torch.equal(v, before[k]) and v.dtype == before[k].dtype for k, v in module.state_dict().items())


@pytest.mark.parametrize(("patch", "canvas"), [(0, 8), (9, 8), (-1, 8)])
def test_impossible_patches(patch: int, canvas: int) -> None:
    with pytest.raises(ValueError, match=f"patch: got {patch}"):
        frame_of(patch, canvas)


def test_frame_is_the_floor_of_half() -> None:
    assert frame_of(112, 224) == (56, 56)
    assert frame_of(75, 224) == (74, 75)
    assert frame_of(8, 8) == (0, 0)
