"""Triton kernel of soft_label_loss: one program a row, the classes in blocks; loss and gradient in the same launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": True}  # without a limit ptxas aims lower and spills


@triton.jit
def log_sum(row, classes, scale, BLOCK: tl.constexpr):
    """log of the sum of exp(scale * row[j]) over the classes, in blocks with a running maximum."""
    top = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for c in range(0, classes, BLOCK):
        j = c + tl.arange(0, BLOCK)
        z = tl.load(row + j, mask=j < classes, other=float("-inf")).to(tl.float32) * scale
        higher = tl.maximum(top, z)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(top - shift) + tl.exp(z - shift)
        top = higher
    whole = tl.max(top, axis=0)
    return whole + tl.log(tl.sum(total * tl.exp(top - whole), axis=0))


@triton.jit
def soft_label_loss_kernel(logits, values, indices, tail, labels, rows, grad, classes, k, stride_n, stride_v, scale,
                           soft_weight, mse_weight, gt_weight, SOFT: tl.constexpr, ENTROPY: tl.constexpr,
                           MSE: tl.constexpr, GT: tl.constexpr, TOPK: tl.constexpr, GRAD: tl.constexpr,
                           BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):  # fmt: skip
    n = tl.program_id(0).to(tl.int64)
    student, teacher = logits + n * stride_n, values + n * stride_v
    rest, sum_t, sum_z, sum_1 = 0.0, 0.0, 0.0, 0.0
    if TOPK:
        rest = tl.load(tail + n).to(tl.float32)
    if SOFT:
        sum_z = log_sum(student, classes, scale, BLOCK)
        if TOPK:
            place = tl.arange(0, BLOCK_K)
            kept = tl.load(teacher + place, mask=place < k, other=float("-inf")).to(tl.float32) * scale
            top = tl.max(kept, axis=0)
            if k < classes:
                top = tl.maximum(top, rest * scale)
            mass = tl.sum(tl.exp(kept - top), axis=0)
            if k < classes:
                mass += (classes - k) * tl.exp(rest * scale - top)
            sum_t = top + tl.log(mass)
        else:
            sum_t = log_sum(teacher, classes, scale, BLOCK)
    label = 0
    if GT:
        sum_1 = log_sum(student, classes, 1.0, BLOCK)
        label = tl.load(labels + n)
    soft = tl.zeros([BLOCK], dtype=tl.float32)
    square = tl.zeros([BLOCK], dtype=tl.float32)
    for c in range(0, classes, BLOCK):
        j = c + tl.arange(0, BLOCK)
        used = j < classes
        z = tl.load(student + j, mask=used, other=0.0).to(tl.float32)
        if TOPK:
            t = tl.zeros([BLOCK], dtype=tl.float32) + rest
            for i in range(k):
                at = tl.load(indices + n * k + i)
                t = tl.where(j == at, tl.load(teacher + i).to(tl.float32), t)
        else:
            t = tl.load(teacher + j, mask=used, other=0.0).to(tl.float32)
        slope = tl.zeros([BLOCK], dtype=tl.float32)
        if SOFT:
            log_q = z * scale - sum_z
            log_p = t * scale - sum_t
            p = tl.exp(log_p)
            term = -p * log_q
            if ENTROPY:
                term = p * (log_p - log_q)
            soft += tl.where(used & (p > 0.0), term, tl.where(p == p, 0.0, p))
            slope += soft_weight * scale * (tl.exp(log_q) - p)
        if MSE:
            apart = tl.where(used, z - t, 0.0)
            square += apart * apart
            slope += 2.0 * mse_weight / classes * apart
        if GT:
            slope += gt_weight * (tl.exp(z - sum_1) - tl.where(j == label, 1.0, 0.0))
        if GRAD:
            tl.store(grad + n * classes + j, slope.to(grad.dtype.element_ty), mask=used)
    loss = soft_weight * tl.sum(soft, axis=0) + mse_weight * tl.sum(square, axis=0) / classes
    if GT:
        known = (label >= 0) & (label < classes)
        own = tl.load(student + tl.where(known, label, 0)).to(tl.float32)
        loss += gt_weight * tl.where(known, sum_1 - own, float("nan"))
    tl.store(rows + n, loss)


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
    rows: Tensor,
    grad: Tensor,
) -> tuple[Tensor, Tensor]:
    """Fills ``rows`` and ``grad``; a label out of range gives a NaN loss."""
    n, classes = logits.shape
    if not n:
        return rows, grad
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    values = values if values.stride(1) == 1 else values.contiguous()
    k = values.shape[1]
    # an argument that is not there is never read; the kernel needs a pointer all the same
    top = (indices.contiguous(), tail.contiguous()) if indices is not None and tail is not None else (rows, rows)
    kept = triton.next_power_of_2(k) if indices is not None else 1
    block = min(max(triton.next_power_of_2(classes), 16), 1024)
    with torch.cuda.device_of(logits):
        soft_label_loss_kernel[(n,)](
            logits, values, *top, rows if labels is None else labels.contiguous(), rows, grad, classes, k,
            logits.stride(0), values.stride(0), 1.0 / temperature, soft_weight, mse_weight, gt_weight,
            SOFT=bool(soft_weight), ENTROPY=entropy, MSE=bool(mse_weight), GT=bool(gt_weight) and labels is not None,
            TOPK=indices is not None, GRAD=want_grad, BLOCK=block, BLOCK_K=kept, **LAUNCH,
        )  # fmt: skip
    return rows, grad
