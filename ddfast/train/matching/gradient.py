"""DC and DSA: images on which networks have the gradients that they have on real pictures.

DC: Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021 (arXiv 2006.05929). DSA: Zhao, Bilen,
"Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv 2102.08259).
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.flat_net import FlatNet
from ddfast.runs import seeds
from ddfast.train.adjoint.classwise import make_class_step, mean_gradients
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.dsa import DSADraw, apply_dsa, draw_dsa, transposed_dsa
from ddfast.train.matching.images import ImageMatcher, ImageSettings, class_labels, own_rows
from ddfast.train.matching.protocol import MatchingData

# The authors' numbers of matching steps with a network, and of epochs it is trained for between two.
_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
_EPS = 1e-6


def loops(ipc: int) -> tuple[int, int]:
    """``(outer, inner)`` of DC for a number of images per class.

    Its table knows 1, 10, 20, 30, 40 and 50; others get ``outer = min(ipc, 50)``, and ``inner`` interpolated between
    their neighbours in the table, that of 50 beyond.
    """
    known = sorted(_LOOPS)
    place = bisect.bisect_left(known, ipc)
    if place == len(known):
        return _LOOPS[known[-1]]
    low, high = known[max(place - 1, 0)], known[place]
    share = (ipc - low) / (high - low) if high > low else 0.0
    return ipc, round(_LOOPS[low][1] + share * (_LOOPS[high][1] - _LOOPS[low][1]))


@dataclass(frozen=True)
class GradientSettings(ImageSettings):
    """``outer`` matching steps with each network; between two it is trained for ``inner`` epochs on the synthetic set,
    by plain SGD of rate ``lr_net`` in batches of ``batch_train``, with augmentation ``dsa``.

    ``batched=False`` goes class by class through torch's own second derivatives, as DC's code does.
    """

    outer: int = 1
    inner: int = 1
    lr_net: float = 0.01
    batch_train: int = 256
    batched: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("outer", "inner", "batch_train"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        if not 0 < self.lr_net < math.inf:
            raise ValueError(f"lr_net: got {self.lr_net!r}, expected a positive number")


class GradientMatcher(ImageMatcher):
    """DC's loop; with ``settings.dsa``, DSA's.

    Each iteration takes a network and does ``outer`` times: the images move against the gradient of
    ``sum over classes, weights and output rows of 1 - cos(g_real, g_synthetic)``, the gradients of the class's mean
    cross-entropy on real and on synthetic pictures (those of biases and norms do not count); then the network is
    trained on the synthetic set, but after the last time. Frozen images stand beside a class's own in all of it.

    The loss returned is the mean over steps and classes.
    """

    settings: GradientSettings

    def __init__(self, data: MatchingData, images: Tensor, labels: Tensor, settings: GradientSettings) -> None:
        super().__init__(data, images, labels, settings)
        self.step = make_class_step(self.net, settings.precision)
        self.train_step = make_step(self.net, settings.precision)

    def _iterate(self, images: Tensor, velocity: Tensor) -> tuple[float, Tensor, Tensor]:
        settings = self.settings
        theta, total = self.start(self.iteration), 0.0
        for outer in range(settings.outer):
            loss, gradient = self.matched(theta, images, outer)
            images, velocity = self._moved(images, velocity, gradient)
            total += float(loss)
            if outer + 1 < settings.outer:
                theta = self._trained(theta, images, outer)
        return total / (settings.outer * len(self.classes)), images, velocity

    def matched(self, theta: Tensor, images: Tensor, outer: int = 0) -> tuple[Tensor, Tensor]:
        """The sum of the classes' distances and its gradient in the images, at one network."""
        run = self._group if self.settings.batched else self._literally
        total, gradient = images.new_zeros(()), torch.zeros_like(images)
        for group in self.groups() if self.settings.batched else ([label] for label in self.classes):
            total = total + run(theta, images, group, outer, gradient)
        return total, gradient

    def _group(self, theta: Tensor, images: Tensor, group: list[int], outer: int, gradient: Tensor) -> Tensor:
        """Of some classes at once; fills their rows of the gradient."""
        pairs = [self.pair(label, images, outer) for label in group]
        sizes, real_sizes = [len(pair.synthetic) for pair in pairs], [len(pair.real) for pair in pairs]
        batch = torch.cat([pair.synthetic for pair in pairs])
        real = torch.cat([pair.real for pair in pairs])
        limit = None if self.net.norm == "batch" else self.part
        target = mean_gradients(self.step, theta, real, class_labels(pairs, real_sizes), real_sizes, limit=limit)
        del real
        _, g, tape = self.step.first(theta, batch, class_labels(pairs, sizes), sizes)
        distances, v = distance_and_gradient(self.net, g, target)
        found = self.step.second_images(theta, v, tape, rows=own_rows(pairs))
        for pair, part in zip(pairs, found.split([len(pair.own) for pair in pairs]), strict=True):
            gradient[pair.own] = transposed_dsa(part, pair.draw)
        return distances.sum()

    def _literally(self, theta: Tensor, images: Tensor, group: list[int], outer: int, gradient: Tensor) -> Tensor:
        """The same for one class by a graph of everything."""
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            pair = self.pair(group[0], leaf, outer)
            theta = theta.detach().requires_grad_()
            gradients: list[Tensor] = []
            for x, graph in ((pair.synthetic, True), (pair.real.detach(), False)):
                loss = F.cross_entropy(self.net.logits(theta, x), class_labels([pair], [len(x)]))
                gradients += torch.autograd.grad(loss, theta, create_graph=graph)
            distance = row_distance(self.net, gradients[0][None], gradients[1][None].detach()).sum()
            (found,) = torch.autograd.grad(distance, leaf)
        gradient[pair.own] = found[pair.own]
        return distance.detach()

    def training_batches(self, iteration: int, outer: int) -> Iterator[tuple[Tensor, DSADraw | None]]:
        """Rows of the synthetic set (frozen images first) and augmentation of each step between two matching steps."""
        settings = self.settings
        size, count = (self.net.input_size, self.net.input_size), len(self.data.frozen) + len(self.images)
        stream = f"{settings.stream}/train {outer}"
        for epoch in range(settings.inner):
            number = iteration * settings.inner + epoch
            order = torch.from_numpy(seeds.permutation(settings.seed, stream, number, count)).to(self.images.device)
            for place, index in enumerate(order.split(settings.batch_train)):
                draw = None
                if settings.dsa:
                    draw = draw_dsa(
                        settings.dsa, len(index), size, seed=settings.seed, epoch=number, step=place, stream=stream
                    )
                yield index, draw

    def _trained(self, theta: Tensor, images: Tensor, outer: int) -> Tensor:
        theta, union = theta.clone(), self._union(images)
        labels = torch.cat([self.data.frozen_labels, self.labels])
        for index, draw in self.training_batches(self.iteration, outer):
            x = union[index] if draw is None else apply_dsa(union[index], draw)
            gradient = self.train_step.first(theta, x, labels[index])[1]
            assert gradient is not None
            theta.sub_(gradient, alpha=self.settings.lr_net)
        return theta


def row_distance(net: FlatNet, g: Tensor, target: Tensor) -> Tensor:
    """DC's distance of gradients [C, P]: over the output rows a, b of all weights,
    ``sum 1 - a . b / (|a| |b| + 1e-6)`` [C]."""
    found = g.new_zeros(len(g))
    for a, b in zip(_weights(net, target), _weights(net, g), strict=True):
        norms = a.norm(dim=2) * b.norm(dim=2) + _EPS
        found = found + (1 - (a * b).sum(2) / norms).sum(1)
    return found


def distance_and_gradient(net: FlatNet, g: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """`row_distance` [C] and its gradient in g [C, P]; with n = |a| |b| + 1e-6 and ``s = a . b``:

    ``d/db = -a / n + s |a| b / (|b| n^2)``, the second term 0 at b = 0 as torch has it.
    """
    gradient, found = torch.zeros_like(g), g.new_zeros(len(g))
    for a, b, into in zip(_weights(net, target), _weights(net, g), _weights(net, gradient), strict=True):
        length, other = a.norm(dim=2, keepdim=True), b.norm(dim=2, keepdim=True)
        norms = length * other + _EPS
        product = (a * b).sum(2, keepdim=True)
        found = found + (1 - product / norms).sum((1, 2))
        scale = torch.where(other > 0, product * length / (other * norms.square()), 0)
        into.copy_(b * scale).sub_(a / norms)
    return found, gradient


def _weights(net: FlatNet, theta: Tensor) -> list[Tensor]:
    """Views [C, output rows, the rest] of theta's tensors of two or more dimensions."""
    return [each.flatten(2) for each in net.split(theta) if each.ndim > 2]
