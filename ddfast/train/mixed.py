"""Networks trained as IDC trains them (Kim et al., ICML 2022, arXiv 2205.14959): its augmentation, CutMix, SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast.nets.flat_net import FlatNet
from ddfast.runs import seeds
from ddfast.train.adjoint.step import Step, float32
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.config import NonFiniteLossError
from ddfast.train.cutmix import apply_cutmix, draw_cutmix, mixed_labels
from ddfast.train.idc_augment import NET, STUDENT, apply_idc, draw_idc


@dataclass(frozen=True)
class MixedRecipe:
    """SGD on all parameters; ``cutmix`` is the share of batches that get it, ``augment`` a strategy of `draw_idc`."""

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 64
    augment: str = NET
    cutmix: float = 0.5


STUDENTS = MixedRecipe(augment=STUDENT)
DROP = 0.2  # of the rate, after 2/3 and after 5/6 of a student's epochs


def mixed_step(
    step: Step, net: FlatNet, theta: Tensor, velocity: Tensor, x: Tensor, y: Tensor, recipe: MixedRecipe, *,
    seed: int, stream: str, number: int, lr: float | None = None,
) -> Tensor:  # fmt: skip
    """One step on a batch; ``theta`` and ``velocity`` [P] are updated in place.

    Args:
        step: of ``net``.
        net: the architecture.
        theta, velocity: parameters and momentum.
        x, y: normalised pictures [n, c, H, W] and classes int64 [n].
        recipe: how.
        seed, stream, number: of the draws; another number, another augmentation.
        lr: instead of the recipe's.

    Returns:
        The loss.
    """
    size = (x.shape[2], x.shape[3])
    if recipe.augment:
        draw = draw_idc(recipe.augment, len(x), size, seed=seed, epoch=number, stream=f"{stream}/augment")
        x = apply_idc(x, draw)
    mix = draw_cutmix(len(x), size, seed=seed, epoch=number, stream=f"{stream}/cutmix", probability=recipe.cutmix)
    if mix is not None:
        x, y = apply_cutmix(x, mix), mixed_labels(y, net.num_classes, mix, theta.dtype)
    loss, gradient, _ = step.first(theta, x, y)
    if gradient is None:
        raise ValueError("step: gave no gradient")
    velocity.mul_(recipe.momentum).add_(gradient).add_(theta, alpha=recipe.weight_decay)
    theta.sub_(velocity, alpha=recipe.lr if lr is None else lr)
    return loss


def train_mixed(
    net: FlatNet, theta: Tensor, images: Tensor, labels: Tensor, recipe: MixedRecipe, epochs: int, *,
    seed: int = 0, stream: str = "student", momentum: Tensor | None = None,
    on_epoch: Callable[[int], None] | None = None,
) -> Tensor:  # fmt: skip
    """Trains from ``theta`` for some epochs; the rate is multiplied by 0.2 after 2/3 and after 5/6 of them.

    Args:
        net: the architecture.
        theta: where to start, [P], left as it is.
        images: normalised [n, c, H, W].
        labels: int64 [n].
        recipe, epochs: how, and how long.
        seed, stream: of the draws.
        momentum: buffer [P] to go on with and to leave updated; None for a fresh one.
        on_epoch: called after every epoch with the number of those done.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    step, theta = make_step(net), theta.clone()
    velocity = torch.zeros_like(theta) if momentum is None else momentum
    loss, number = torch.zeros(()), 0
    with float32("fp32"):
        for epoch in range(epochs):
            rate = recipe.lr * DROP ** ((epoch >= 2 * epochs // 3) + (epoch >= 5 * epochs // 6))
            order = torch.from_numpy(seeds.permutation(seed, f"{stream}/order", epoch, len(images)))
            for index in order.to(images.device).split(recipe.batch_size):
                loss = mixed_step(
                    step, net, theta, velocity, images[index], labels[index], recipe,
                    seed=seed, stream=stream, number=number, lr=rate,
                )  # fmt: skip
                number += 1
            if not bool(torch.isfinite(loss)):
                raise NonFiniteLossError(
                    f"{stream}: the loss became {float(loss)} in epoch {epoch + 1} at learning rate {rate:.3g}"
                )
            if on_epoch is not None:
                on_epoch(epoch + 1)
    return theta
