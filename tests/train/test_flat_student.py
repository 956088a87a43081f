"""Students of the matching methods against torch.optim.SGD, and their test."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import seeds
from ddfast.train import NonFiniteLossError
from ddfast.train.adjoint import many_step
from ddfast.train.flat_student import FlatRecipe, flat_accuracy, fresh_theta, train_flat

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
RECIPE = FlatRecipe(epochs=6, lr=0.05, batch_size=4, dsa="")


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(9) % 3
    images = torch.randn(9, 3, 8, 8, generator=generator)
    images[torch.arange(9), labels] += 1.0
    return images, labels


@pytest.mark.parametrize(("soft", "reset"), [(False, True), (True, True), (False, False)])
def test_steps_are_those_of_sgd(soft: bool, reset: bool) -> None:
    """Seven passes: at the full rate through pass 4, then a tenth, with a fresh momentum or the old one."""
    images, labels = pictures()
    targets = F.one_hot(labels).float() * 0.7 + 0.1 if soft else labels
    theta = fresh_theta(NET, 3, "student")
    mine = train_flat(NET, theta, images, targets, replace(RECIPE, reset_momentum=reset), seed=5, stream="s")
    module = NET.module(theta).double()
    for epoch in range(7):
        if epoch == 0 or (epoch == 5 and reset):
            rate = 0.05 if epoch == 0 else 0.005
            optimizer = torch.optim.SGD(module.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
        elif epoch == 5:
            optimizer.param_groups[0]["lr"] = 0.005
        for index in torch.from_numpy(seeds.permutation(5, "s/order", epoch, 9)).split(4):
            optimizer.zero_grad()
            target = targets[index].double() if soft else targets[index]
            F.cross_entropy(module(images[index].double()), target).backward()
            optimizer.step()
    torch.testing.assert_close(mine.double(), NET.flatten(module), rtol=1e-3, atol=1e-4)
    assert torch.equal(theta, fresh_theta(NET, 3, "student"))  # left as it was


def test_several_at_once_are_as_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures()
    recipe = FlatRecipe(epochs=3, lr=0.05, batch_size=4)
    thetas = torch.stack([fresh_theta(NET, k, "student") for k in range(2)])
    streams, momentum = ["a", "b"], torch.zeros_like(thetas)
    alone = [torch.zeros(NET.size) for _ in range(2)]
    want = [train_flat(NET, thetas[k], images, labels, recipe, seed=5, stream=streams[k], momentum=alone[k])
            for k in range(2)]  # fmt: skip
    many = train_flat(NET, thetas, images, labels, recipe, seed=5, stream=streams, momentum=momentum)
    assert torch.equal(many, torch.stack(want))
    assert torch.equal(momentum, torch.stack(alone))
    monkeypatch.setattr(many_step, "fastest_way", lambda net, device: "grouped")  # as on a GPU
    grouped = train_flat(NET, thetas, images, labels, recipe, seed=5, stream=streams)
    torch.testing.assert_close(grouped, many, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"stream: got 1 for theta \[2, "):
        train_flat(NET, thetas, images, labels, recipe)
    thetas[1, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"^b: the loss became nan"):
        train_flat(NET, thetas, images, labels, recipe, stream=streams)


def test_accuracy_counts() -> None:
    images, labels = pictures()
    theta = train_flat(NET, fresh_theta(NET, 0, "student"), images, labels, FlatRecipe(60, 0.05, 9, dsa=""))
    assert flat_accuracy(NET, theta, images, labels, batch_size=4) == 1.0
    assert flat_accuracy(NET, theta, images, (labels + 1) % 3) == 0.0


def test_divergence_is_named() -> None:
    images, labels = pictures()
    images[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"s: the loss became nan in epoch 1 at learning rate 0\.05"):
        train_flat(NET, fresh_theta(NET, 0, "student"), images, labels, FlatRecipe(2, 0.05, 9), stream="s")
