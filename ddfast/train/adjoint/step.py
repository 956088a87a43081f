"""What the reverse recursion needs of one training step, and the plain-autograd way to get it for any ConvNet."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.nets.flat_net import FlatNet
from ddfast.nets.settings import full_float32

PRECISIONS = ("fp32", "tf32", "bf16")


def float32(precision: str) -> AbstractContextManager[None]:
    """Within it float32 convolutions and products of a GPU are as ``precision`` says: TF32 only where asked for."""
    return nullcontext() if precision == "tf32" else full_float32()


class Second(NamedTuple):
    """Derivatives of ``g . v``, g being the gradient of the step's mean cross-entropy in theta.

    ``hv`` is H v (None where it was not asked for), ``images`` d/dx [rows, c, H, W] of the pictures asked for (None
    for none), ``gv`` the scalar itself, ``labels`` d/dy [n, classes].
    """

    hv: Tensor | None
    images: Tensor | None
    gv: Tensor
    labels: Tensor


class Step(Protocol):
    """First and second derivatives of the mean cross-entropy ``-(1/n) sum y log softmax(logits(theta, x))``."""

    def first(self, theta: Tensor, x: Tensor, y: Tensor, *, weights: bool = True) -> tuple[Tensor, Tensor | None, Any]:
        """Loss, its gradient in theta (None without ``weights``), and a tape for `second`.

        Args:
            theta: flat parameters.
            x: normalised pictures [n, c, H, W].
            y: classes int64 [n], or probabilities [n, classes].
            weights: False where only the tape is wanted.
        """

    def second(
        self, theta: Tensor, v: Tensor, tape: Any, *, hessian: bool = True, rows: Tensor | None = None
    ) -> Second:
        """Derivatives of g . v at the point of ``tape``.

        Args:
            theta, v: parameters and direction, flat.
            tape: of `first` at theta.
            hessian: False leaves H v out.
            rows: int64, pictures whose derivative is wanted; None for all, empty for none.
        """


def class_targets(y: Tensor, like: Tensor) -> Tensor:
    """``y`` as rows of probabilities of ``like``'s shape and type."""
    return F.one_hot(y, like.shape[1]).to(like.dtype) if y.ndim == 1 else y.to(like.dtype)


class AutogradStep:
    """A `Step` by torch's own second derivatives, for every norm and pool; memory of one step at a time."""

    def __init__(self, net: FlatNet) -> None:
        self.net = net

    def first(
        self, theta: Tensor, x: Tensor, y: Tensor, *, weights: bool = True
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, Tensor]]:
        """See `Step`."""
        if not weights:
            return theta.new_zeros(()), None, (x, y)
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            loss = self._loss(theta, x, y)
            (gradient,) = torch.autograd.grad(loss, theta)
        return loss.detach(), gradient, (x, y)

    def second(
        self, theta: Tensor, v: Tensor, tape: tuple[Tensor, Tensor], *, hessian: bool = True, rows: Tensor | None = None
    ) -> Second:
        """See `Step`."""
        with torch.enable_grad():
            theta, x = theta.detach().requires_grad_(), tape[0].detach().requires_grad_()
            y = class_targets(tape[1], theta.new_empty(len(x), self.net.num_classes)).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._loss(theta, x, y), theta, create_graph=True)
            gv = (gradient * v).sum()
            *products, images, labels = torch.autograd.grad(gv, (theta, x, y) if hessian else (x, y))
        if rows is not None:
            images = images[rows]
        return Second(products[0] if hessian else None, images if len(images) else None, gv.detach(), labels)

    def _loss(self, theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
        log_p = F.log_softmax(self.net.logits(theta, x), 1)
        return -(class_targets(y, log_p) * log_p).sum() / len(x)
