"""Plain transcription of PDD over MTT, from experts to the last stage, as the authors' programs run it.

Papers: Cazenavette et al., CVPR 2022, arXiv 2203.11932 (MTT); Chen et al., ICLR 2024, arXiv 2310.06982 (PDD). Written
from a description of the behaviour; nothing of ddfast is used. Random draws and the augmentation are arguments, so that
another program can be given the same ones and must end in the same images.

What is kept although it is slow: networks trained one after the other through torch's layers and ``torch.optim.SGD``;
every iteration one graph of all steps of the student (``create_graph=True``) over all sets so far, whose gradient rows
of earlier sets are set to zero. What is left out although the programs spend time on it: tests after each epoch of the
experts, loaders that stack batches picture by picture, logging.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Settings:
    """The programs' options; ``experts`` are trained anew for each stage from its start networks."""

    stages: int
    classes: int
    width: int
    depth: int
    experts: int
    expert_train_epochs: int
    expert_lr: float
    expert_batch: int
    iterations: int
    syn_steps: int
    expert_epochs: int
    lr_img: float
    lr_lr: float
    lr_teacher: float
    transition_epochs: int
    eval_students: int
    eval_epochs: int


class Draws(Protocol):
    """All that is random; streams are named by who draws."""

    def network(self, stream: str) -> list[Tensor]:
        """Initial weights, block by block, then the linear layer's."""

    def initial(self, stage: int) -> tuple[Tensor, Tensor]:
        """Real pictures that a stage's images begin as, and their classes."""

    def order(self, stream: str, epoch: int, count: int) -> Tensor:
        """Permutation."""

    def augmented(self, x: Tensor, stream: str, epoch: int, step: int) -> Tensor:
        """One batch, differentiable."""

    def start_epoch(self, stream: str, iteration: int) -> int:
        """Of the expert."""


Part = Callable[[str, str], AbstractContextManager[None]]  # (section, part) of the clock


@dataclass
class Run:
    """Own images of each stage as they were trained, its learned rate, and the accuracies of its test."""

    images: list[Tensor] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    accuracies: list[list[float]] = field(default_factory=list)


class Net(nn.Module):
    """ConvNet with instance norm written as group norm, the ReLU in place."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for place in range(0, len(weights) - 2, 4):
            width, channels = weights[place].shape[:2]
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(inplace=True),
                       nn.AvgPool2d(2)]  # fmt: skip
        classes, features = weights[-2].shape
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), weights, strict=True):
                parameter.copy_(value)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found

    def snapshot(self) -> list[Tensor]:
        """Weights as they are."""
        return [parameter.detach().clone() for parameter in self.parameters()]


def run(real: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], settings: Settings, draws: Draws, part: Part) -> Run:
    """The whole pipeline on normalised pictures."""
    found = Run()
    starts = [draws.network(f"expert {k}") for k in range(settings.experts)]
    frozen, frozen_labels = real[0][:0], real[1][:0]
    for stage in range(settings.stages):
        section = f"stage {stage + 1}"
        if stage:
            with part(section, "transitions"):
                starts = [
                    _synthetic(settings, starts[k], frozen, frozen_labels, found.rates[-1], settings.transition_epochs,
                               f"pdd/transition {stage} {k}", draws, fresh=False).snapshot()
                    for k in range(settings.experts)
                ]  # fmt: skip
        with part(section, "experts"):
            experts = [_expert(settings, starts[k], real, f"expert {k}", draws) for k in range(settings.experts)]
        with part(section, "matching"):
            own, labels, rate = _stage(settings, stage, experts, frozen, frozen_labels, draws)
        union, targets = torch.cat([frozen, own]), torch.cat([frozen_labels, labels])
        with part(section, "tests"):
            found.accuracies.append(_tests(settings, stage, starts, union, targets, rate, test, draws))
        frozen, frozen_labels = union, targets
        found.images.append(own)
        found.rates.append(rate)
    return found


def _expert(
    settings: Settings, start: list[Tensor], real: tuple[Tensor, Tensor], stream: str, draws: Draws
) -> list[list[Tensor]]:
    net = Net(start)
    optimizer = torch.optim.SGD(net.parameters(), lr=settings.expert_lr)
    kept = [net.snapshot()]
    for epoch in range(settings.expert_train_epochs):
        _epoch(net, optimizer, *real, settings.expert_batch, epoch, stream, f"{stream}/dsa", draws)
        kept.append(net.snapshot())
    return kept


def _synthetic(
    settings: Settings, start: list[Tensor], images: Tensor, labels: Tensor, rate: float, epochs: int, stream: str,
    draws: Draws, *, fresh: bool,
) -> Net:  # fmt: skip
    """A training on distilled images; with ``fresh`` its momentum begins anew where the rate drops (MTT's program)."""
    net = Net(start)
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
    for epoch in range(epochs + 1):
        _epoch(net, optimizer, images, labels, 256, epoch, f"{stream}/order", f"{stream}/dsa", draws)
        if epoch == epochs // 2 + 1:
            optimizer.param_groups[0]["lr"] = rate / 10
            if fresh:
                optimizer = torch.optim.SGD(net.parameters(), lr=rate / 10, momentum=0.9, weight_decay=5e-4)
    return net


def _epoch(
    net: Net, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, batch: int, epoch: int, order: str,
    dsa: str, draws: Draws,
) -> None:  # fmt: skip
    for step, index in enumerate(draws.order(order, epoch, len(images)).split(batch)):
        x = draws.augmented(images[index], dsa, epoch, step)
        loss = F.cross_entropy(net(x), labels[index])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def _stage(
    settings: Settings, stage: int, experts: list[list[list[Tensor]]], frozen: Tensor, frozen_labels: Tensor,
    draws: Draws,
) -> tuple[Tensor, Tensor, float]:  # fmt: skip
    """A stage's images, their classes and the learned rate."""
    stream = f"mtt/stage {stage}" if stage else "mtt"
    begun, labels = draws.initial(stage)
    images = torch.cat([frozen, begun]).requires_grad_()
    targets, batch, count = torch.cat([frozen_labels, labels]), len(begun), len(experts)
    rate = torch.tensor(settings.lr_teacher, requires_grad=True)
    optimizers = [torch.optim.SGD([images], lr=settings.lr_img, momentum=0.5),
                  torch.optim.SGD([rate], lr=settings.lr_lr, momentum=0.5)]  # fmt: skip
    for number in range(settings.iterations):
        chosen = int(draws.order(f"{stream}/experts", number // count, count)[number % count])
        epoch = draws.start_epoch(f"{stream}/start", number)
        begin, target = (_flat(experts[chosen][each]) for each in (epoch, epoch + settings.expert_epochs))
        theta, shapes = begin.clone().requires_grad_(), [each.shape for each in experts[chosen][0]]
        chunks: list[Tensor] = []
        for step in range(settings.syn_steps):
            if not chunks:
                key = number * settings.syn_steps + step
                chunks = list(draws.order(f"{stream}/order", key, len(images)).split(batch))
            index = chunks.pop()
            x = draws.augmented(images[index], f"{stream}/dsa", number, step)
            loss = F.cross_entropy(_logits(theta, shapes, x), targets[index])
            theta = theta - rate * torch.autograd.grad(loss, theta, create_graph=True)[0]
        loss = (theta - target).square().sum() / (begin - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        assert images.grad is not None
        images.grad[: len(frozen)] = 0
        for optimizer in optimizers:
            optimizer.step()
    return images.detach()[len(frozen) :], labels, float(rate.detach())


def _logits(theta: Tensor, shapes: list[torch.Size], x: Tensor) -> Tensor:
    """The network as a function of one vector, as a re-parametrised module has it."""
    sizes = [math.prod(shape) for shape in shapes]
    weights = [part.view(shape) for part, shape in zip(theta.split(sizes), shapes, strict=True)]
    for place in range(0, len(weights) - 2, 4):
        conv, bias, gamma, beta = weights[place : place + 4]
        x = F.group_norm(F.conv2d(x, conv, bias, padding=1), len(gamma), gamma, beta)
        x = F.avg_pool2d(F.relu(x, inplace=True), 2)
    return F.linear(x.flatten(1), weights[-2], weights[-1])


def _flat(weights: list[Tensor]) -> Tensor:
    return torch.cat([each.flatten() for each in weights])


def _tests(
    settings: Settings, stage: int, starts: list[list[Tensor]], images: Tensor, labels: Tensor, rate: float,
    test: tuple[Tensor, Tensor], draws: Draws,
) -> list[float]:  # fmt: skip
    """Accuracies of students: fresh ones in the first stage, then from where its experts began."""
    stream, found = f"mtt/stage {stage}" if stage else "mtt", []
    for student in range(settings.eval_students):
        name = f"{stream}/student {settings.iterations} {student}"
        start = starts[student % len(starts)] if stage else draws.network(name)
        net = _synthetic(settings, start, images, labels, rate, settings.eval_epochs, name, draws, fresh=True)
        with torch.no_grad():
            right = [(net(x).argmax(1) == y).sum() for x, y in zip(*(each.split(256) for each in test), strict=True)]
        found.append(float(sum(right)) / len(test[1]))
    return found
