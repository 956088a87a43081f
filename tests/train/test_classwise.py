"""Gradients of each class's batch and their derivatives in the pictures, against torch's in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.convnet import NORMS
from ddfast.nets.flat_convnet import POOLS, FlatConvNet
from ddfast.train.adjoint.classwise import ClassPlanes, make_class_step, mean_gradients
from ddfast.train.adjoint.embedding import make_embedding

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
SIZES = [2, 1, 4]


def problem(net: FlatConvNet) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    count = sum(SIZES)
    theta = net.init(generator, torch.float64) + 0.05 * normal(net.size)
    x = normal(count, net.channels, net.input_size, net.input_size)
    y = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    return {"theta": theta, "x": x, "y": y, "v": normal(len(SIZES), net.size)}


def truth(net: FlatConvNet, theta: Tensor, x: Tensor, y: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, gradients without the tensors of one dimension, d/dx of their products with v."""
    matched = torch.cat([torch.full((t.numel(),), float(t.ndim > 1)) for t in net.split(theta)]).double()
    theta, x = theta.clone().requires_grad_(), x.clone().requires_grad_()
    losses, gradients = [], []
    for part, labels in zip(x.split(SIZES), y.split(SIZES), strict=True):
        loss = F.cross_entropy(net.logits(theta, part), labels)
        gradients.append(torch.autograd.grad(loss, theta, create_graph=True)[0] * matched)
        losses.append(loss.detach())
    g = torch.stack(gradients)
    return torch.stack(losses), g.detach(), torch.autograd.grad((g * v).sum(), x)[0]


def close(mine: Tensor, want: Tensor, tolerance: float = 1e-12) -> None:
    assert mine.shape == want.shape
    assert (mine - want).abs().max() <= tolerance * want.abs().max()


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", NORMS)
def test_every_architecture_agrees_with_autograd(norm: str, pool: str) -> None:
    net = replace(NET, norm=norm, pool=pool, input_size=9 if pool == "avg" else 8)
    given = problem(net)
    losses, g, dx = truth(net, **given)
    step = make_class_step(net)
    with torch.no_grad():
        mine, gradients, tape = step.first(given["theta"], given["x"], given["y"], SIZES)
        close(mine, losses)
        close(gradients, g)
        close(step.second_images(given["theta"], given["v"], tape), dx)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_rows_and_soft_labels(norm: str) -> None:
    net = replace(NET, norm=norm)
    given = problem(net)
    step = make_class_step(net)
    dx = truth(net, **given)[2]
    rows = torch.tensor([1, 4, 6])  # none of the second class
    soft = F.one_hot(given["y"], 3).double()
    with torch.no_grad():
        tape = step.first(given["theta"], given["x"], soft, SIZES)[2]
        close(step.second_images(given["theta"], given["v"], tape, rows=rows), dx[rows])


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 100])
@pytest.mark.parametrize("norm", ["instance", "group"])
def test_parts_make_the_same_mean(norm: str, limit: int | None) -> None:
    net = replace(NET, norm=norm)
    given = problem(net)
    with torch.no_grad():
        mine = mean_gradients(make_class_step(net), given["theta"], given["x"], given["y"], SIZES, limit=limit)
    close(mine, truth(net, **given)[1])


def test_bfloat16_points_the_same_way() -> None:
    net = replace(NET, input_size=16, width=32)
    given = problem(net)
    want = truth(net, **given)[2]
    single: dict[str, Any] = {k: t.float() if t.is_floating_point() else t for k, t in given.items()}
    step = ClassPlanes(net, "bf16")
    with torch.no_grad():
        tape = step.first(single["theta"], single["x"], single["y"], SIZES)[2]
        mine = step.second_images(single["theta"], single["v"], tape)
    assert mine.dtype == torch.float32
    assert F.cosine_similarity(mine.double().flatten(), want.flatten(), 0) > 0.99


@pytest.mark.parametrize(("norm", "pool"), [("instance", "avg"), ("instance", "none"), ("batch", "avg")])
def test_embedding(norm: str, pool: str) -> None:
    net = replace(NET, norm=norm, pool=pool)
    given = problem(net)
    x = given["x"].clone().requires_grad_()
    features = net.features(given["theta"], x)
    rows = torch.arange(len(x)).double()[:, None]  # a g that does not depend on the order within a row
    (want,) = torch.autograd.grad((features * rows).sum() + features.square().sum(), x)
    embedding = make_embedding(net)
    with torch.no_grad():
        mine, tape = embedding.first(given["theta"], given["x"])
        close(mine.sort(1)[0], features.detach().sort(1)[0])
        close(embedding.images(given["theta"], rows + 2 * mine, tape), want)


def test_unknown_precision_is_named() -> None:
    for make in (make_class_step, make_embedding):
        with pytest.raises(ValueError, match="precision: got 'bf16' for norm 'group'"):
            make(replace(NET, norm="group"), "bf16")


def test_bfloat16_of_many_pictures_needs_no_exact_forward_pass() -> None:
    net = replace(NET, input_size=16, width=32)
    generator = torch.Generator().manual_seed(4)
    theta, x = net.init(generator), torch.randn(64, 3, 16, 16, generator=generator)
    y, sizes = torch.arange(2).repeat_interleave(32), [32, 32]
    with torch.no_grad():
        want = mean_gradients(make_class_step(net), theta.double(), x.double(), y, sizes, limit=None)
        mine = mean_gradients(make_class_step(net, "bf16"), theta, x, y, sizes, limit=16)
        assert (mine - want).norm() < 0.05 * want.norm()
        features = make_embedding(net).first(theta.double(), x.double())[0]
        embedding = make_embedding(net, "bf16")
        found, tape = embedding.first(theta, x)
        assert (found - features).norm() < 0.02 * features.norm()
        pulled = embedding.images(theta, features.float(), tape)
        wanted = make_embedding(net).images(
            theta.double(), features, make_embedding(net).first(theta.double(), x.double())[1]
        )
    assert pulled.dtype == torch.float32
    assert F.cosine_similarity(pulled.double().flatten(), wanted.flatten(), 0) > 0.99
