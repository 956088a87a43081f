"""First derivatives of several networks at once against each one alone, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint.many_step import WAYS, ManyStep

NET = FlatConvNet(num_classes=3, input_size=9, depth=2, width=16)


def problem(net: FlatConvNet, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Three networks with norms away from 1 and 0, and a batch for each."""
    generator = torch.Generator().manual_seed(0)
    thetas = torch.stack([net.init(generator, dtype) for _ in range(3)])
    thetas += 0.1 * torch.randn(thetas.shape, generator=generator, dtype=dtype)
    shape = (3, 5, net.channels, net.input_size, net.input_size)
    x = torch.randn(shape, generator=generator, dtype=dtype)
    return thetas, x, torch.randint(net.num_classes, (3, 5), generator=generator)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", ["avg", "none"])
@pytest.mark.parametrize("soft", [False, True])
def test_each_network_as_alone(way: str, pool: str, soft: bool) -> None:
    net = FlatConvNet(num_classes=3, input_size=9, depth=2, width=16, pool=pool)
    thetas, x, y = problem(net)
    targets = F.one_hot(y, 3).double() * 0.7 + 0.1 if soft else y
    got = ManyStep(net, way).first(thetas, x, targets)
    for k in range(3):
        theta = thetas[k].clone().requires_grad_()
        logits = net.logits(theta, x[k])
        loss = F.cross_entropy(logits, targets[k])
        (want,) = torch.autograd.grad(loss, theta)
        torch.testing.assert_close(got.losses[k], loss.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(got.gradients[k], want, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(got.probabilities[k], logits.detach().softmax(1), rtol=1e-10, atol=1e-12)


def test_loop_is_exactly_each_alone() -> None:
    thetas, x, y = problem(NET, torch.float32)
    many = ManyStep(NET, "loop").first(thetas, x, y)
    for k in range(3):
        alone = ManyStep(NET, "loop").first(thetas[k : k + 1], x[k : k + 1], y[k : k + 1])
        assert torch.equal(many.gradients[k], alone.gradients[0])
        assert torch.equal(many.losses[k], alone.losses[0])


def test_bf16_keeps_the_forward_pass() -> None:
    thetas, x, y = problem(NET, torch.float32)
    exact, low = (ManyStep(NET, "grouped", precision).first(thetas, x, y) for precision in ("fp32", "bf16"))
    assert torch.equal(exact.losses, low.losses)
    cosine = F.cosine_similarity(exact.gradients, low.gradients, 1)
    assert float(cosine.min()) > 0.999
    assert not torch.equal(exact.gradients, low.gradients)


@pytest.mark.parametrize("change", [{"norm": "batch"}, {"norm": "none"}, {"pool": "max"}])
def test_other_architectures_go_by_loop(change: dict[str, str]) -> None:
    net = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16, **change)  # type: ignore[arg-type]
    thetas, x, y = problem(net)
    got = ManyStep(net).first(thetas, x, y)
    theta = thetas[1].clone().requires_grad_()
    (want,) = torch.autograd.grad(F.cross_entropy(net.logits(theta, x[1]), y[1]), theta)
    torch.testing.assert_close(got.gradients[1], want, rtol=1e-9, atol=1e-11)
    with pytest.raises(ValueError, match="way: got 'grouped' for"):
        ManyStep(net, "grouped")


def test_unknown_way() -> None:
    with pytest.raises(ValueError, match="way: got 'vmap', expected auto, loop, grouped"):
        ManyStep(NET, "vmap")
