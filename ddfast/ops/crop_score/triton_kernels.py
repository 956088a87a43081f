"""Triton kernel of crop_score: one program per image, all its crops at once, the classes in blocks."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": True}  # without a limit ptxas aims lower and spills


@triton.jit
def power_of_two(k):
    return ((k.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def exp(x):
    """e^x for x <= 0 within 2 ulp, subnormal results included; the hardware's exp2 loses digits as |x| grows."""
    x = tl.where(x < -110.0, -110.0, x)
    k = tl.floor(x * 1.4426950408889634 + 0.5)
    r = x - k * 0.693359375
    r = r + k * 2.12194440e-4
    p = 1.9875691500e-4 * r + 1.3981999507e-3
    p = p * r + 8.3334519073e-3
    p = p * r + 4.1665795894e-2
    p = p * r + 1.6666665459e-1
    p = p * r + 5.0000001201e-1
    p = p * r * r + r + 1.0
    half = tl.floor(k * 0.5)
    return p * power_of_two(half) * power_of_two(k - half)


@triton.jit
def log(x):
    """ln x for x >= 0 (0 gives -inf, inf and NaN themselves) within 2 ulp, subnormal x included."""
    tiny = x < 1.1754944e-38
    scaled = tl.where(tiny, x * 16777216.0, x)
    bits = scaled.to(tl.int32, bitcast=True)
    k = ((bits - 0x3F3504F3) >> 23).to(tl.float32)  # x = m 2^k, sqrt(1/2) <= m < sqrt(2)
    m = (bits - (k.to(tl.int32) << 23)).to(tl.float32, bitcast=True)
    k = tl.where(tiny, k - 24.0, k)
    s = tl.div_rn(m - 1.0, m + 1.0)
    s2 = s * s
    series = 2.0 * s + s * s2 * (0.6666666667 + s2 * (0.4 + s2 * (0.2857142857 + s2 * 0.2222222222)))
    result = k * 0.693359375 + (k * -2.12194440e-4 + series)
    result = tl.where(x == 0.0, float("-inf"), result)
    return tl.where((x == float("inf")) | (x != x), x, result)


@triton.jit
def log1p(x):
    """ln(1 + x) for x >= 0, with the relative accuracy of x when x is small."""
    u = 1.0 + x
    return log(u) + tl.div_rn(x - (u - 1.0), u)


@triton.jit
def finite(top):
    """Shift for a maximum that may be infinite: +inf logits then sum to inf, and an empty sum stays 0."""
    return tl.where(tl.abs(top) == float("inf"), 0.0, top)


@triton.jit
def crop_score_kernel(logits, labels, loss, best_loss, best_index, m, classes, stride_n, stride_m,
                      LITERAL: tl.constexpr, CROPS: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    image = tl.program_id(0).to(tl.int64)
    label = tl.load(labels + image)
    known = (label >= 0) & (label < classes)
    best = float("nan")
    best_at = 0
    for start in range(0, m, CROPS):
        crop = start + tl.arange(0, CROPS)
        present = crop < m
        rows = logits + image * stride_n + crop.to(tl.int64) * stride_m
        top = tl.full([CROPS], float("-inf"), dtype=tl.float32)
        total = tl.zeros([CROPS], dtype=tl.float32)
        for c in range(0, classes, BLOCK):
            j = c + tl.arange(0, BLOCK)
            used = present[:, None] & (j < classes)[None, :]
            z = tl.load(rows[:, None] + j[None, :], mask=used, other=0.0).to(tl.float32)
            if not LITERAL:
                used = used & (j != label)[None, :]
            z = tl.where(used, z, float("-inf"))
            higher = tl.maximum(top, tl.max(z, axis=1))  # passes NaN over: it comes back through the sum
            shift = finite(higher)
            total = total * tl.exp(top - shift) + tl.sum(tl.exp(z - shift[:, None]), axis=1)
            top = higher
        own = tl.load(rows + tl.where(known, label, 0), mask=present, other=0.0).to(tl.float32)
        own = tl.where(known, own, float("nan"))
        if LITERAL:
            share = tl.div_rn(exp(own - top), total)
            value = tl.where(tl.abs(top) == float("inf"), float("nan"), log(share)) * -1.0
        else:
            # log(1 + S e^d), S the sum over rivals of e^(z - top): never forms logsumexp - z[y], whose rounding would
            # be the relative error of a small loss
            d = top - own
            e = exp(tl.where(d > 0.0, -d, d))
            value = tl.where(d > 0.0, d + log(total + e), log1p(total * e))
        tl.store(loss + image * m + crop, value, mask=present)

        number = present & (value == value)
        low = tl.min(tl.where(number, value, float("inf")), axis=0)
        at = tl.min(tl.where(number & (value == low), crop, m), axis=0)
        bits = tl.sum(tl.where(crop == at, value.to(tl.int32, bitcast=True), 0), axis=0)  # keeps the sign of -0.0
        picked = bits.to(tl.float32, bitcast=True)
        better = (at < m) & ((best != best) | (picked < best))
        best = tl.where(better, picked, best)
        best_at = tl.where(better, at, best_at)
    tl.store(best_loss + image, best)
    tl.store(best_index + image, best_at.to(tl.int64))


def blocks(m: int, classes: int) -> tuple[int, int]:
    """(CROPS, BLOCK): crops and classes that a program holds at once, at most 2048 logits."""
    return min(triton.next_power_of_2(m), 8), min(max(triton.next_power_of_2(classes), 16), 256)


def crop_score(
    logits: Tensor, labels: Tensor, literal: bool, loss: Tensor, best_loss: Tensor, best_index: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Fills the three results; a label out of range gives NaN losses."""
    n, m, classes = logits.shape
    if n:
        logits = logits if logits.stride(2) == 1 else logits.contiguous()
        crops, block = blocks(m, classes)
        with torch.cuda.device_of(logits):
            crop_score_kernel[(n,)](
                logits, labels.contiguous(), loss, best_loss, best_index, m, classes, *logits.stride()[:2],
                LITERAL=literal, CROPS=crops, BLOCK=block, **LAUNCH,
            )  # fmt: skip
    return loss, best_loss, best_index
