"""Gradient of the trajectory-matching loss through the student's training steps, exact, without a graph of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.adjoint.planes import PlaneStep, takes_planes
from ddfast.train.adjoint.step import PRECISIONS, AutogradStep, Step, class_targets, float32
from ddfast.train.dsa import DSADraw, pack

UNROLLS = ("adjoint", "autograd", "compile")
MEMORIES = ("store", "recompute")
ADJOINTS = ("exact", "first_order")
# Images whose activations are alive at a time; on a CPU larger parts are no faster (measured).
PART = {"cpu": 32}
_PART = 512


@dataclass(frozen=True)
class InnerStep:
    """One step of the student: rows of the synthetic set, int64 [b], each at most once, and the augmentation.

    Both may be on the CPU. ``draw`` is a draw, or rows of parameters for `ddfast.ops.dsa` [b or 1, 13], or None.
    """

    index: Tensor
    draw: DSADraw | Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows of parameters of the augmentation: b, 1 for the same on every image, 0 for none."""
        if self.draw is None:
            return 0
        return len(self.draw.values if isinstance(self.draw, DSADraw) else self.draw)

    def packed(self, images: Tensor) -> Tensor | None:
        """The augmentation of ``images`` [n, c, H, W] as rows of parameters; those of a draw are on the CPU."""
        return pack(self.draw, (images.shape[-2], images.shape[-1])) if isinstance(self.draw, DSADraw) else self.draw


@dataclass(frozen=True)
class Match:
    """Loss and its gradients; ``end`` is the student's last theta.

    ``images`` is zero in rows that are not trainable; ``labels`` is None unless asked for.
    """

    loss: Tensor
    images: Tensor
    lr: Tensor
    labels: Tensor | None
    end: Tensor


def match_trajectory(
    net: FlatNet,
    start: Tensor,
    target: Tensor,
    images: Tensor,
    labels: Tensor,
    lr: Tensor | float,
    steps: Sequence[InnerStep],
    *,
    unroll: str = "adjoint",
    memory: str = "store",
    adjoint: str = "exact",
    precision: str = "fp32",
    trainable: Tensor | None = None,
    label_gradient: bool = False,
) -> Match:
    """Trains a student on the synthetic set for a few steps and differentiates how far it ends from the expert.

    With theta_0 = start and x_i = A_i(images[index_i]): ``theta_{i+1} = theta_i - lr g_i``, g_i the gradient of the
    mean cross-entropy of batch i, and ``loss = |theta_N - target|^2 / |theta_0 - target|^2``. The adjoint way runs

        lambda_N = 2 (theta_N - target) / |theta_0 - target|^2;  for i = N-1 .. 0 with v = lambda_{i+1}:
        images += -lr A_i^T d/dx (g_i . v),  lr += -(g_i . v),  lambda_i = v - lr H_i v

    and with ``memory="recompute"`` needs no more than every theta_i and the activations of some images of one step at a
    time.

    MTT: Cazenavette et al., CVPR 2022 (arXiv 2203.11932).

    Args:
        net: the architecture.
        start, target: the expert's parameters at the start and at the end, flat.
        images: float [n, c, H, W], normalised.
        labels: classes int64 [n], or probabilities [n, classes].
        lr: the student's learning rate.
        steps: the batches.
        unroll: "adjoint"; "autograd", the plain way through a graph of all steps; or "compile", that graph compiled by
            torch.compile (minutes, anew for each number of steps; not measured on a GPU yet).
        memory: "store" keeps each step's activations (less than half of autograd's), "recompute" makes them again.
        adjoint: "exact", or "first_order" for TESLA's approximation (Cui et al., ICML 2023), which treats later
            parameters as constants: for comparison, its step is about twice too long, the more so the more steps.
        precision: "tf32" for TensorFloat-32 convolutions on GPUs; "bf16" for bfloat16 ones except in the forward pass
            (adjoint with instance norm only).
        trainable: bool [n], rows that get a gradient; None for all.
        label_gradient: also differentiate in probabilities ``labels``.

    Returns:
        Loss and gradients.

    Raises:
        ValueError: unknown option, a theta of another length, no steps, a batch that does not fit the set, or options
            that do not go together.
    """
    _check(net, start, target, images, labels, steps, unroll, memory, adjoint, precision, label_gradient)
    rate = torch.as_tensor(lr, dtype=start.dtype, device=start.device).detach()
    batches = []
    for step in steps:
        params = step.packed(images)
        params = params if params is None else params.to(images.device, non_blocking=True)
        batches.append(_Batch(step.index.to(images.device, non_blocking=True), params))
    given = (net, start.detach(), target.detach(), images.detach(), labels.detach(), rate, batches)
    if unroll != "adjoint":
        with float32(precision):
            return _through_graph(*given, trainable, label_gradient, compiled=unroll == "compile")
    with float32(precision), torch.no_grad():
        return _Adjoint(*given, memory, adjoint, precision, trainable, label_gradient).run()


def make_step(net: FlatNet, precision: str = "fp32") -> Step:
    """The fastest `Step` for an architecture.

    Raises:
        ValueError: bf16 for another architecture than a ConvNet with instance norm and average or no pooling.
    """
    if isinstance(net, FlatConvNet) and takes_planes(net, precision):
        return PlaneStep(net, precision)
    return AutogradStep(net)


@dataclass(frozen=True)
class _Batch:
    """A step's batch or some rows of it, ``share`` of its images."""

    index: Tensor
    params: Tensor | None
    share: float = 1.0


class _Adjoint:
    def __init__(
        self, net: FlatNet, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, rate: Tensor,
        steps: Sequence[_Batch], memory: str, adjoint: str, precision: str, trainable: Tensor | None,
        label_gradient: bool,
    ) -> None:  # fmt: skip
        self.start, self.target, self.images, self.labels, self.rate = start, target, images, labels, rate
        self.steps, self.store, self.exact = steps, memory == "store", adjoint == "exact"
        self.trainable, self.label_gradient = trainable, label_gradient
        self.step = make_step(net, precision)
        self.part = None if net.norm == "batch" else PART.get(start.device.type, _PART)

    def run(self) -> Match:
        thetas, tapes = self._forward()
        loss, v = _loss_and_adjoint(self.start, thetas[-1], self.target)
        found = torch.zeros_like(self.images)
        rate = torch.zeros_like(self.rate)
        labels = torch.zeros_like(self.labels) if self.label_gradient else None
        for i in range(len(self.steps) - 1, -1, -1):
            products = []
            for part in self._parts(self.steps[i]):
                tape = tapes[i].pop(0) if self.store else self._tape(thetas[i], part)
                rows = None if self.trainable is None else torch.nonzero(self.trainable[part.index])[:, 0]
                second = self.step.second(thetas[i], v, tape, hessian=self.exact and i > 0, rows=rows)
                del tape
                share = part.share * -self.rate
                if second.images is not None:
                    index, params = _chosen(part, rows)
                    found.index_add_(0, index, _transposed(second.images, params) * share)
                if labels is not None:
                    labels.index_add_(0, part.index, second.labels.to(labels.dtype) * share)
                rate -= part.share * second.gv
                if second.hv is not None:
                    products.append(second.hv * share)
            for product in products:
                v += product
        return Match(loss, found, rate, labels, thetas[-1].clone())

    def _forward(self) -> tuple[Tensor, list[list[Any]]]:
        """All students along the way [N + 1, P], and in store mode the tapes of each step's parts.

        One block for the students: one by one they would lie between the steps' work memory and keep it from reuse.
        """
        thetas, tapes = self.start.new_empty(len(self.steps) + 1, len(self.start)), []
        thetas[0] = self.start
        for i, inner in enumerate(self.steps):
            theta, after, kept = thetas[i], thetas[i + 1].copy_(thetas[i]), []
            for part in self._parts(inner):
                _, gradient, tape = self.step.first(theta, *self._batch(part))
                assert gradient is not None
                after -= (self.rate * part.share) * gradient
                kept += [tape] if self.store else []
            tapes.append(kept)
        return thetas, tapes

    def _parts(self, inner: _Batch) -> list[_Batch]:
        """The step's batch in parts of nearly one size, worked on in turn; whole for batch norm, which mixes images."""
        count, params = len(inner.index), inner.params
        size = count if self.part is None else -(-count // -(-count // self.part))
        indices = inner.index.split(size)
        rows = [params] * len(indices) if params is None or len(params) == 1 else params.split(size)
        return [_Batch(index, part, len(index) / count) for index, part in zip(indices, rows, strict=True)]

    def _tape(self, theta: Tensor, part: _Batch) -> Any:
        return self.step.first(theta, *self._batch(part), weights=False)[2]

    def _batch(self, part: _Batch) -> tuple[Tensor, Tensor]:
        return _augmented(self.images[part.index], part.params), self.labels[part.index]


def _through_graph(
    net: FlatNet, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, rate: Tensor,
    steps: Sequence[_Batch], trainable: Tensor | None, label_gradient: bool, *, compiled: bool,
) -> Match:  # fmt: skip
    images, rate = images.requires_grad_(), rate.requires_grad_()
    wanted = [images, rate]
    if label_gradient:
        labels = labels.requires_grad_()
        wanted.append(labels)

    def run(theta: Tensor, *leaves: Tensor) -> tuple[Tensor, ...]:
        x, eta = leaves[:2]
        y = leaves[2] if label_gradient else labels
        for inner in steps:
            batch = _augmented(x[inner.index], inner.params)
            log_p = F.log_softmax(net.logits(theta, batch), 1)
            loss = -(class_targets(y[inner.index], log_p) * log_p).sum() / len(batch)
            (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
            theta = theta - eta * gradient
        loss = (theta - target).square().sum() / (start - target).square().sum()
        found = torch.autograd.grad(loss, leaves)
        return loss.detach(), theta.detach(), *(each.detach() for each in found)

    with torch.enable_grad():
        theta = start.clone().requires_grad_()
        if compiled:  # the outer gradient inside as well: a compiled graph cannot be differentiated from outside
            with torch._dynamo.config.patch(trace_autograd_ops=True):
                loss, end, found, rates, *rest = torch.compile(run, fullgraph=True)(theta, *wanted)
        else:
            loss, end, found, rates, *rest = run(theta, *wanted)
    if trainable is not None:
        found = found * trainable.to(found.dtype)[:, None, None, None]
    return Match(loss, found, rates, rest[0] if rest else None, end)


def _loss_and_adjoint(start: Tensor, end: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    distance = (start - target).square().sum()
    away = end - target
    return away.square().sum() / distance, 2 * away / distance


def _augmented(x: Tensor, params: Tensor | None) -> Tensor:
    return x if params is None else ops.dsa(x, params)


def _transposed(g: Tensor, params: Tensor | None) -> Tensor:
    return g if params is None else ops.dsa_adjoint(g, params)


def _chosen(part: _Batch, rows: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Index and augmentation of some rows of a batch."""
    if rows is None:
        return part.index, part.params
    params = part.params
    return part.index[rows], params[rows] if params is not None and len(params) > 1 else params


def _check(
    net: FlatNet, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, steps: Sequence[InnerStep],
    unroll: str, memory: str, adjoint: str, precision: str, label_gradient: bool,
) -> None:  # fmt: skip
    for name, value, known in (
        ("unroll", unroll, UNROLLS),
        ("memory", memory, MEMORIES),
        ("adjoint", adjoint, ADJOINTS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
    for name, theta in (("start", start), ("target", target)):
        if theta.shape != (net.size,):
            raise ValueError(f"{name}: got shape {list(theta.shape)}, expected [{net.size}] for {net}")
    size = [net.channels, net.input_size, net.input_size]
    if list(images.shape[1:]) != size:
        raise ValueError(f"images: got shape {list(images.shape)}, expected [n, {', '.join(map(str, size))}]")
    if labels.shape not in {(len(images),), (len(images), net.num_classes)}:
        raise ValueError(
            f"labels: got shape {list(labels.shape)}, expected [{len(images)}] or [{len(images)}, {net.num_classes}]"
        )
    if not steps:
        raise ValueError("steps: got none, expected at least one")
    for number, inner in enumerate(steps):
        if not 0 < len(inner.index) <= len(images):
            raise ValueError(
                f"steps: batch {number} has {len(inner.index)} rows, expected 1 to {len(images)} (the set's images); "
                "lower the batch size"
            )
    if unroll != "adjoint" and (adjoint != "exact" or precision == "bf16"):
        raise ValueError(f"unroll: got {unroll!r} with adjoint {adjoint!r} and precision {precision!r}; those options "
                         "belong to unroll='adjoint'")  # fmt: skip
    if label_gradient and labels.ndim == 1:
        raise ValueError("label_gradient: got True with classes as labels, expected probabilities [n, classes]")
