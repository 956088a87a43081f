"""VGG-11, AlexNet and ViT for small pictures: sizes counted by hand, shapes, gradients, and what they compute."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ddfast.nets import VGG11, AlexNet, ViT


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def tiny(kind: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    made = {
        "vgg": lambda: VGG11(5, size, width=2),
        "alexnet": lambda: AlexNet(5, size, width=2),
        "vit": lambda: ViT(5, size, dim=8, depth=2, heads=2),
        "vit_none": lambda: ViT(5, size, dim=8, depth=2, heads=2, norm="none"),
    }[kind]()
    return made.double()


@pytest.mark.parametrize("size", [28, 32, 64])
@pytest.mark.parametrize("kind", ["vgg", "alexnet", "vit", "vit_none"])
def test_gradients_reach_every_parameter_and_pixel(kind: str, size: int) -> None:
    net = tiny(kind, size)
    x = torch.randn(3, 3, size, size, dtype=torch.float64, requires_grad=True)
    logits = net(x)
    assert logits.shape == (3, 5)
    F.cross_entropy(logits, torch.tensor([0, 1, 4])).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.parameters())
    assert x.grad is not None
    assert all(
        part.abs().max() > 0 for part in (x.grad[:, :, :4], x.grad[:, :, -4:], x.grad[..., :4], x.grad[..., -4:])
    )
    again = net.eval()(x[1:])  # no picture sees another
    torch.testing.assert_close(again, net(x)[1:], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "side"), [(28, 1), (32, 1), (64, 2)])
def test_parameters_of_vgg11_and_alexnet(size: int, side: int) -> None:
    plan = [(3, 64), (64, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
    convs = sum(9 * a * b + b + 2 * b for a, b in plan)
    with torch.device("meta"):
        assert count(VGG11(10, size)) == convs + (512 * side**2 + 1) * 10
        wide = [(3, 128, 25), (128, 192, 25), (192, 256, 9), (256, 192, 9), (192, 192, 9)]
        convs = sum(a * b * k + b for a, b, k in wide)
        assert count(AlexNet(10, size)) == convs + (192 * (4 * side) ** 2 + 1) * 10


def test_parameters_of_the_vit() -> None:
    block = 3 * 512 * 512 + 3 * (512 * 512 + 512)
    with torch.device("meta"):
        for size, patch in ((64, 16), (32, 8), (28, 7)):
            bare = (3 * patch**2 + 1) * 512 + 18 * 512 + 10 * block + 513 * 10
            assert count(ViT(10, size, norm="none")) == bare
            assert count(ViT(10, size)) == bare + 21 * 2 * 512


def test_pictures_of_28_pixels_are_those_of_32_with_zeros_around() -> None:
    x = torch.randn(2, 3, 28, 28, dtype=torch.float64)
    for kind in ("vgg", "alexnet"):
        torch.testing.assert_close(tiny(kind, 28)(x), tiny(kind, 32)(F.pad(x, (2, 2, 2, 2))), rtol=0, atol=0)


def test_the_vit_cuts_patches_in_rows_and_attends_like_torch() -> None:
    net = tiny("vit_none", 32).eval()
    assert isinstance(net, ViT)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    patches = torch.stack(
        [x[0, :, 8 * r : 8 * r + 8, 8 * c : 8 * c + 8].reshape(-1) for r in range(4) for c in range(4)]
    )
    tokens = torch.cat([net.token[0], net.embed(patches)]) + net.position[0]
    block = net.blocks[0]
    weight, bias = torch.cat([block.qkv.weight]), torch.zeros(24, dtype=torch.float64)
    attended, _ = F.multi_head_attention_forward(
        tokens[:, None], tokens[:, None], tokens[:, None], 8, 2, weight, bias, None, None, False, 0.0,
        block.proj.weight, block.proj.bias, training=False, need_weights=False,
    )  # fmt: skip
    middle = tokens + attended[:, 0]
    expected = middle + block.fc2(F.gelu(block.fc1(middle)))
    torch.testing.assert_close(block(tokens[None])[0], expected)


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="got 24 for VGG-11, expected 28 or at least 32"):
        VGG11(10, 24)
    with pytest.raises(ValueError, match="at least 8"):
        AlexNet(10, 4)
    with pytest.raises(ValueError, match="multiple of 4"):
        ViT(10, 30)
    with pytest.raises(ValueError, match="got 10 for 4 heads"):
        ViT(10, 32, dim=10, heads=4)
    with pytest.raises(ValueError, match="norm"):
        ViT(10, 32, norm="batch")
