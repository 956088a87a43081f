"""ResNet-AP: against its definition written out, as a function of a flat vector, and as a student."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddfast.evaluation.students import build_student, label_of, student_name
from ddfast.nets.resnet_ap import FlatResNetAP, ResNetAP
from ddfast.train.adjoint import AutogradStep, make_step


def written_out(net: ResNetAP, x: Tensor, side: int) -> Tensor:
    """The network of IDC's paper for ten layers, weights by name, instance norm as a formula."""
    weights = dict(net.named_parameters())

    def conv(x: Tensor, name: str) -> Tensor:
        w = weights[f"{name}.weight"]
        return F.conv2d(x, w, stride=1, padding=w.shape[-1] // 2)

    def norm(x: Tensor, name: str) -> Tensor:
        away = x - x.mean((2, 3), keepdim=True)
        x = away / (away.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"][:, None, None] + weights[f"{name}.bias"][:, None, None]

    def pool(x: Tensor, k: int) -> Tensor:
        n, c, h, w = x.shape
        return x[:, :, : h // k * k, : w // k * k].reshape(n, c, h // k, k, w // k, k).mean((3, 5))

    x = norm(conv(x, "conv1"), "bn1").clamp(min=0)
    x = pool(x, 4 if side > 128 else 2 if side > 64 else 1)
    for stage in range(1, 5):
        name, k = f"layer{stage}.0", 1 if stage == 1 else 2
        y = norm(
            conv(pool(norm(conv(x, f"{name}.conv1"), f"{name}.bn1").clamp(min=0), k), f"{name}.conv2"), f"{name}.bn2"
        )
        if stage > 1:
            x = norm(pool(conv(x, f"{name}.downsample.0"), k), f"{name}.downsample.2")
        x = (x + y).clamp(min=0)
    return x.mean((2, 3)) @ weights["fc.weight"].T + weights["fc.bias"]


@pytest.mark.parametrize("side", [16, 80, 132])
def test_it_is_the_network_of_the_paper(side: int) -> None:
    torch.manual_seed(0)
    net = ResNetAP(10, 3, side, width=4).double()
    for parameter in net.parameters():  # so that no norm is the identity
        parameter.data += 0.1 * torch.randn_like(parameter)
    x = torch.randn(2, 3, side, side, dtype=torch.float64)
    assert net.conv1.kernel_size == ((7, 7) if side > 128 else (3, 3))
    torch.testing.assert_close(net(x), written_out(net, x, side), rtol=1e-10, atol=1e-10)


def test_a_flat_vector_says_the_same_and_has_second_derivatives() -> None:
    flat = FlatResNetAP(num_classes=3, input_size=16, width=4)
    theta = flat.init(torch.Generator().manual_seed(0), torch.float64)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = torch.tensor([0, 1, 2, 1])
    net = flat.module(theta)
    torch.testing.assert_close(flat.logits(theta, x), net(x))
    torch.testing.assert_close(flat.flatten(net), theta)
    step = make_step(flat)
    assert isinstance(step, AutogradStep)
    v = torch.randn(flat.size, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    _, gradient, tape = step.first(theta, x, y)
    second = step.second(theta, v, tape, hessian=False)
    assert gradient is not None
    assert second.images is not None
    assert second.hv is None
    F.cross_entropy(net(x), y).backward()
    torch.testing.assert_close(gradient, torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]))
    along, eps = torch.randn_like(x), 1e-6

    def scalar(x: Tensor) -> Tensor:
        found = step.first(theta, x, y)[1]
        assert found is not None
        return found @ v

    slope = (scalar(x + eps * along) - scalar(x - eps * along)) / (2 * eps)
    assert (second.images * along).sum().item() == pytest.approx(slope.item(), rel=1e-5)


def test_initial_weights_have_the_papers_spread() -> None:
    flat = FlatResNetAP(num_classes=50, input_size=32)
    theta = flat.init(torch.Generator().manual_seed(0))
    for tensor, (name, parameter) in zip(flat.split(theta), ResNetAP(10, 50, 32).named_parameters(), strict=True):
        if parameter.ndim == 1 and not name.startswith("fc"):
            assert torch.equal(tensor, parameter.data), name
        elif parameter.ndim > 1:
            assert tensor.std().item() == pytest.approx(parameter.std().item(), rel=0.1), name


def test_it_is_a_student() -> None:
    assert student_name("ResNetAP-10") == student_name("resnet-ap-10_instance") == "resnetap10"
    assert label_of("resnetap10") == "ResNet-AP-10"
    assert student_name("resnetap18_batch") == "resnetap18_batch"
    net = build_student("resnetap10", 4, 16, seed=0)
    assert isinstance(net, ResNetAP)
    assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="input_size: got 15"):
        ResNetAP(10, 3, 15)
    with pytest.raises(ValueError, match="layers: got 12"):
        ResNetAP(12, 3)
    with pytest.raises(ValueError, match="norm: got 'batch'"):
        FlatResNetAP(norm="batch")
    flat = FlatResNetAP(num_classes=3, input_size=16, width=4)
    with pytest.raises(ValueError, match="theta: got 7 numbers"):
        flat.split(torch.zeros(7))
