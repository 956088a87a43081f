"""Students of the matching methods: a flat ConvNet trained on a small synthetic set, and tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast.nets.flat_net import FlatNet
from ddfast.runs.seeds import stream_key
from ddfast.train.adjoint.many_step import ManyStep
from ddfast.train.adjoint.step import float32
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import STRATEGY
from ddfast.train.passes import PassKey, batches


@dataclass(frozen=True)
class FlatRecipe:
    """SGD as DC, DSA and MTT evaluate: ``epochs`` + 1 passes, rate / 10 after pass ``epochs // 2 + 1`` (from 0).

    Where the rate drops the momentum starts anew, as in the code of DC, DSA and MTT, or goes on, as in PDD's
    (``reset_momentum=False``); ``weight_decay`` acts on all parameters.
    """

    epochs: int = 1000
    lr: float = 0.01
    batch_size: int = 256
    momentum: float = 0.9
    weight_decay: float = 5e-4
    dsa: str = STRATEGY
    reset_momentum: bool = True


def fresh_theta(net: FlatNet, seed: int, stream: str) -> Tensor:
    """Initial weights that depend on seed and stream alone."""
    low, high = stream_key(seed, stream)
    return net.init(torch.Generator().manual_seed((high & 0x7FFFFFFF) << 32 | low))


def train_flat(
    net: FlatNet,
    theta: Tensor,
    images: Tensor,
    labels: Tensor,
    recipe: FlatRecipe,
    *,
    seed: int = 0,
    stream: str | Sequence[str] = "student",
    momentum: Tensor | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> Tensor:
    """Trains from ``theta`` on normalised pictures; order and augmentation depend on (seed, stream) alone.

    Several networks [K, P] with a stream each train side by side, on a CPU to the numbers each has alone, on a GPU, in
    grouped convolutions, up to rounding.

    Args:
        net: the architecture.
        theta: where to start, float32 [P] or [K, P], left as it is.
        images: float32 [n, c, H, W].
        labels: int64 [n], or probabilities [n, classes].
        recipe: how.
        seed, stream: of the draws; for several networks a stream each.
        momentum: buffer of theta's shape to go on with and to leave updated; None for a fresh one.
        on_epoch: called after every pass with the number of those done.

    Raises:
        ValueError: other numbers of thetas and streams.
        NonFiniteLossError: a loss became NaN or infinite; names the stream.
    """
    streams = [stream] if isinstance(stream, str) else list(stream)
    if (theta.shape[0] if theta.ndim == 2 else 1) != len(streams):
        raise ValueError(f"stream: got {len(streams)} for theta {list(theta.shape)}, expected one a network")
    thetas = theta.reshape(len(streams), -1).clone()
    velocity = torch.zeros_like(thetas) if momentum is None else momentum.view(len(streams), -1)
    with float32("fp32"):
        return _train(net, thetas, images, labels, recipe, seed, streams, velocity, on_epoch).reshape(theta.shape)


def _train(
    net: FlatNet, thetas: Tensor, images: Tensor, labels: Tensor, recipe: FlatRecipe, seed: int,
    streams: list[str], velocity: Tensor, on_epoch: Callable[[int], None] | None,
) -> Tensor:  # fmt: skip
    step = ManyStep(net)
    rate, losses = recipe.lr, torch.zeros(len(streams))
    for epoch in range(recipe.epochs + 1):
        if epoch == recipe.epochs // 2 + 2:
            rate = recipe.lr / 10
            if recipe.reset_momentum:
                velocity.zero_()
        keys = [PassKey(f"{stream}/order", f"{stream}/dsa", epoch) for stream in streams]
        for batch in batches(images, labels, keys, recipe.batch_size, recipe.dsa, seed):
            losses, gradients, _ = step.first(thetas, batch.x, batch.y)
            velocity.mul_(recipe.momentum).add_(gradients).add_(thetas, alpha=recipe.weight_decay)
            thetas.sub_(velocity, alpha=rate)
        if not bool(torch.isfinite(losses).all()):
            k = int(torch.isfinite(losses).long().argmin())
            raise NonFiniteLossError(
                f"{streams[k]}: the loss became {float(losses[k])} in epoch {epoch + 1} at learning rate {rate:.3g}"
            )
        if on_epoch is not None:
            on_epoch(epoch + 1)
    return thetas


@torch.no_grad()
def flat_accuracy(net: FlatNet, theta: Tensor, images: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    """Top-1 in [0, 1] on normalised pictures [n, c, H, W] with classes int64 [n]."""
    right = sum(
        int((net.logits(theta, x).argmax(1) == y).sum())
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True)
    )
    return right / len(labels)
