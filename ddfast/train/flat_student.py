"""Students of the matching methods: a flat ConvNet trained on a small synthetic set, and tested."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import seeds
from ddfast.runs.seeds import stream_key
from ddfast.train.adjoint.step import float32
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import STRATEGY, apply_dsa, draw_dsa


@dataclass(frozen=True)
class FlatRecipe:
    """SGD as DC, DSA and MTT evaluate: ``epochs`` + 1 passes, rate / 10 after pass ``epochs // 2 + 1`` (from 0).

    The momentum starts anew where the rate drops, as MTT's code does; ``weight_decay`` acts on all parameters.
    """

    epochs: int = 1000
    lr: float = 0.01
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dsa: str = STRATEGY


def fresh_theta(net: FlatConvNet, seed: int, stream: str) -> Tensor:
    """Initial weights that depend on seed and stream alone."""
    low, high = stream_key(seed, stream)
    return net.init(torch.Generator().manual_seed((high & 0x7FFFFFFF) << 32 | low))


def train_flat(
    net: FlatConvNet,
    theta: Tensor,
    images: Tensor,
    labels: Tensor,
    recipe: FlatRecipe,
    *,
    seed: int = 0,
    stream: str = "student",
    momentum: Tensor | None = None,
) -> Tensor:
    """Trains from ``theta`` on normalised pictures; order and augmentation depend on (seed, stream) alone.

    Args:
        net: the architecture.
        theta: where to start, float32 [P], left as it is.
        images: float32 [n, c, H, W].
        labels: int64 [n], or probabilities [n, classes].
        recipe: how.
        seed, stream: of the draws.
        momentum: buffer [P] to go on with and to leave updated; None for a fresh one.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    with float32("fp32"):
        return _train(net, theta.clone(), images, labels, recipe, seed, stream, momentum)


def _train(
    net: FlatConvNet, theta: Tensor, images: Tensor, labels: Tensor, recipe: FlatRecipe, seed: int, stream: str,
    momentum: Tensor | None,
) -> Tensor:  # fmt: skip
    step = make_step(net)
    velocity = torch.zeros_like(theta) if momentum is None else momentum
    rate, loss = recipe.lr, torch.zeros(())
    for epoch in range(recipe.epochs + 1):
        if epoch == recipe.epochs // 2 + 2:
            rate = recipe.lr / 10
            velocity.zero_()
        order = torch.from_numpy(seeds.permutation(seed, f"{stream}/order", epoch, len(images))).to(images.device)
        for place, index in enumerate(order.split(recipe.batch_size)):
            x = images[index]
            if recipe.dsa:
                size = (net.input_size, net.input_size)
                draw = draw_dsa(
                    recipe.dsa, len(index), size, seed=seed, epoch=epoch, step=place, stream=f"{stream}/dsa"
                )
                x = apply_dsa(x, draw)
            loss, gradient, _ = step.first(theta, x, labels[index])
            assert gradient is not None
            velocity.mul_(recipe.momentum).add_(gradient).add_(theta, alpha=recipe.weight_decay)
            theta.sub_(velocity, alpha=rate)
        if not bool(torch.isfinite(loss)):
            raise NonFiniteLossError(
                f"{stream}: the loss became {float(loss)} in epoch {epoch + 1} at learning rate {rate:.3g}"
            )
    return theta


@torch.no_grad()
def flat_accuracy(net: FlatConvNet, theta: Tensor, images: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Top-1 in [0, 1] on normalised pictures [n, c, H, W] with classes int64 [n]."""
    right = sum(
        int((net.logits(theta, x).argmax(1) == y).sum())
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    )
    return right / len(labels)
