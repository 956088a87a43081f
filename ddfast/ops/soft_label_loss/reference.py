"""Plain-torch definition of soft_label_loss, its gradient and the gradient's own gradient."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def soft_label_loss(
    logits: Tensor,
    values: Tensor,
    indices: Tensor | None,
    tail: Tensor | None,
    labels: Tensor | None,
    temperature: float,
    soft_weight: float,
    entropy: bool,
    mse_weight: float,
    gt_weight: float,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`ddfast.ops.soft_label_loss.soft_label_loss`; loss of each row and its gradient with respect to it."""
    z = widen(logits)
    rows, grad = z.new_zeros(len(z)), torch.zeros_like(z)
    target = dense(values, indices, tail, z)
    if soft_weight:
        log_p, log_q = torch.log_softmax(target / temperature, 1), torch.log_softmax(z / temperature, 1)
        p = log_p.exp()
        terms = p * (log_p - log_q) if entropy else -p * log_q
        rows = rows + soft_weight * terms.masked_fill(p == 0, 0.0).sum(1)  # a class without mass costs nothing
        grad = grad + soft_weight / temperature * (log_q.exp() - p)
    if mse_weight:
        rows = rows + mse_weight * (z - target).square().mean(1)
        grad = grad + 2 * mse_weight / z.shape[1] * (z - target)
    if gt_weight and labels is not None:
        check_labels(labels, z.shape[1])
        log_s = torch.log_softmax(z, 1)
        rows = rows - gt_weight * log_s.gather(1, labels[:, None])[:, 0]
        hot = torch.zeros_like(z).scatter(1, labels[:, None], 1.0)
        grad = grad + gt_weight * (log_s.exp() - hot)
    return rows, grad.to(logits.dtype) if want_grad else grad.new_empty((0, z.shape[1]), dtype=logits.dtype)


def backward(
    upstream: Tensor,
    grad: Tensor,
    logits: Tensor,
    temperature: float,
    soft_weight: float,
    mse_weight: float,
    gt_weight: float,
) -> Tensor:
    """The forward's gradient [n, C], each row times ``upstream`` [n]; the other arguments are for its own gradient."""
    return (widen(grad) * upstream[:, None]).to(logits.dtype)


def double_backward(
    vector: Tensor,
    upstream: Tensor,
    grad: Tensor,
    logits: Tensor,
    temperature: float,
    soft_weight: float,
    mse_weight: float,
    gt_weight: float,
) -> tuple[Tensor, Tensor]:
    """Gradients of ``sum(vector * backward(...))`` with respect to ``upstream`` [n] and ``logits`` [n, C].

    The soft and hard terms' Hessians are ``(diag(s) - s s^T) / T^2`` with ``s`` the student's softmax at T (1 for the
    hard term); none depends on the labels.
    """
    v, z = widen(vector), widen(logits)
    product = 2 * mse_weight / z.shape[1] * v
    for weight, t in ((soft_weight, temperature), (gt_weight, 1.0)):
        if weight:
            s = torch.softmax(z / t, 1)
            product = product + weight / t**2 * s * (v - (s * v).sum(1, keepdim=True))
    return (v * widen(grad)).sum(1).to(upstream.dtype), (product * upstream[:, None]).to(logits.dtype)


def composed(
    logits: Tensor, target: Tensor, labels: Tensor | None, temperature: float, entropy: bool, mse: float, gt: float
) -> Tensor:
    """The loss of each row from torch's own functions and their autograd; hard ``labels`` choose MSE+GT."""
    z, t = widen(logits), target
    if labels is not None:
        check_labels(labels, z.shape[1])
        hard = F.cross_entropy(z, labels, reduction="none")
        return mse * F.mse_loss(z, t, reduction="none").mean(1) + gt * hard
    log_q, p = torch.log_softmax(z / temperature, 1), torch.softmax(t / temperature, 1)
    return F.kl_div(log_q, p, reduction="none").sum(1) if entropy else -(p * log_q).sum(1)


def dense(values: Tensor, indices: Tensor | None, tail: Tensor | None, like: Tensor) -> Tensor:
    """Teacher logits [n, C] in the dtype of ``like``; of top-k labels every class beyond the k gets the tail."""
    values = values.to(like.dtype)
    if indices is None or tail is None:
        return values
    check_labels(indices, like.shape[1])
    return tail.to(like.dtype)[:, None].expand_as(like).scatter(1, indices, values)


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError for a class that is none; CUDA tensors are not read back for it."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"labels: got class {wrong}, expected 0 to {classes - 1} (the classes of logits)")


def widen(tensor: Tensor) -> Tensor:
    """float64 stays, everything else is computed in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
