"""Triton kernels of mmd: tiles of the matrix of pairs, and tiles of its product with the points.

Distances are products of points less their mean over y, in three TF32 products where the GPU has tensor cores, which
keeps float32's accuracy. Kernels and their derivatives are summed in the same program; tiles are added up in one order,
so results repeat bit by bit.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": True}
SIDE = 32  # of a tile, in points
FEATURES = 16  # that are loaded at a time
STEP, WIDTH = 16, 64  # of the gradient's products: points at a time, features of a program


@triton.jit
def place(tile, tiles_x, n, m, SIDE: tl.constexpr):
    """Whether a tile's points are x, their places in it, which are there, and their places among [x; y]."""
    own = tile < tiles_x
    at = tl.where(own, tile, tile - tiles_x) * SIDE + tl.arange(0, SIDE)
    return own, at, at < tl.where(own, n, m), at + tl.where(own, 0, n)


@triton.jit
def mmd_kernel(x, x_c, x_n, y, y_c, y_m, centre, sigmas, bandwidths, parts, weights, rows, n, m, features, tiles_x,
               tiles, own_weight, cross_weight, real_weight, SIDE: tl.constexpr, FEATURES: tl.constexpr):  # fmt: skip
    number = (tl.program_id(0) // (tiles * tiles)).to(tl.int64)
    row = tl.program_id(0) % (tiles * tiles) // tiles
    column = tl.program_id(0) % tiles
    if (column >= row) & ((row < tiles_x) | (real_weight != 0.0)):
        a_own, a_at, a_there, a_point = place(row, tiles_x, n, m, SIDE)
        b_own, b_at, b_there, b_point = place(column, tiles_x, n, m, SIDE)
        x += number * x_c
        y += number * y_c
        a_base = tl.where(a_own, x, y)
        b_base = tl.where(b_own, x, y)
        a_rows = (a_at * tl.where(a_own, x_n, y_m))[:, None]
        b_rows = (b_at * tl.where(b_own, x_n, y_m))[:, None]
        squares = tl.zeros([SIDE, SIDE], dtype=tl.float32)
        a_norm = tl.zeros([SIDE], dtype=tl.float32)
        b_norm = tl.zeros([SIDE], dtype=tl.float32)
        for start in range(0, features, FEATURES):
            f = start + tl.arange(0, FEATURES)
            used = (f < features)[None, :]
            middle = tl.load(centre + number * features + f, mask=f < features, other=0.0)[None, :]
            a = tl.load(a_base + (a_rows + f[None, :]), mask=a_there[:, None] & used, other=0.0).to(tl.float32) - middle
            b = tl.load(b_base + (b_rows + f[None, :]), mask=b_there[:, None] & used, other=0.0).to(tl.float32) - middle
            squares = tl.dot(a, tl.trans(b), squares, input_precision="tf32x3")
            a_norm += tl.sum(a * a, axis=1)
            b_norm += tl.sum(b * b, axis=1)
        squares = a_norm[:, None] + b_norm[None, :] - 2.0 * squares
        squares = tl.where(squares < 0.0, 0.0, squares)  # not maximum: NaN stays
        kernel = tl.zeros([SIDE, SIDE], dtype=tl.float32)
        slope = tl.zeros([SIDE, SIDE], dtype=tl.float32)
        for s in range(bandwidths):
            sigma = tl.load(sigmas + number * bandwidths + s)
            rate = -0.5 / (sigma * sigma)
            term = tl.exp(rate * squares)
            kernel += term
            slope += rate * term
        pair = a_there[:, None] & b_there[None, :] & (a_point[:, None] != b_point[None, :])
        weight = tl.where(a_own & b_own, own_weight, tl.where(a_own | b_own, cross_weight, real_weight))
        twice = tl.where(row == column, 1.0, 2.0)
        total = tl.sum(tl.sum(tl.where(pair, kernel, 0.0), axis=1), axis=0)
        tl.store(parts + tl.program_id(0), twice * weight * total)
        edges = tl.where(pair, -4.0 * weight * slope, 0.0)
        points = n + m
        matrix = weights + number * rows * points
        inside = a_there[:, None] & b_there[None, :]
        here = a_point[:, None] * points + b_point[None, :]
        tl.store(matrix + here, edges, mask=inside & (a_point < rows)[:, None])
        if column > row:
            there = b_point[None, :] * points + a_point[:, None]
            tl.store(matrix + there, edges, mask=inside & (b_point < rows)[None, :])


@triton.jit
def mmd_backward_kernel(x, x_c, x_n, y, y_c, y_m, centre, upstream, weights, rows, grad_x, gx_c, gx_n, grad_y, gy_c,
                        gy_m, n, m, features, tiles_x, tiles, steps_x, steps, SIDE: tl.constexpr, STEP: tl.constexpr,
                        FEATURES: tl.constexpr):  # fmt: skip
    blocks = tl.cdiv(features, FEATURES)
    number = (tl.program_id(0) // (tiles * blocks)).to(tl.int64)
    row = tl.program_id(0) // blocks % tiles
    f = tl.program_id(0) % blocks * FEATURES + tl.arange(0, FEATURES)
    used = (f < features)[None, :]
    own, at, there, point = place(row, tiles_x, n, m, SIDE)
    middle = tl.load(centre + number * features + f, mask=f < features, other=0.0)[None, :]
    matrix = weights + number * rows * (n + m)
    x += number * x_c
    y += number * y_c
    total = tl.zeros([SIDE, FEATURES], dtype=tl.float32)
    for step in range(steps):
        b_own, b_at, b_there, b_point = place(step, steps_x, n, m, STEP)
        line = point[:, None] * (n + m) + b_point[None, :]
        factors = tl.load(matrix + line, mask=there[:, None] & b_there[None, :], other=0.0)
        feature = (b_at * tl.where(b_own, x_n, y_m))[:, None] + f[None, :]
        z = tl.load(tl.where(b_own, x, y) + feature, mask=b_there[:, None] & used, other=0.0).to(tl.float32) - middle
        total = tl.dot(factors, z, total, input_precision="tf32x3")
    total *= tl.load(upstream + number)
    out = tl.where(own, grad_x + number * gx_c, grad_y + number * gy_c)
    feature = (at * tl.where(own, gx_n, gy_m))[:, None] + f[None, :]
    tl.store(out + feature, total.to(grad_x.dtype.element_ty), mask=there[:, None] & used)


def mmd(x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool, wanted: int) -> tuple[Tensor, Tensor]:
    """Of points in float32, bfloat16 or float16; see the reference."""
    x, y = _rows(x), _rows(y)
    classes, n, features = x.shape
    m = y.shape[1]
    tiles_x, tiles = _tiles(n, m, SIDE)
    parts = sigmas.new_zeros(classes, tiles * tiles)
    rows = (0, n, n + m)[wanted]
    # without the real term no program writes the edges between points of y
    make = torch.empty if real_term or wanted < 2 else torch.zeros
    weights = make(classes, rows, n + m, dtype=torch.float32, device=x.device)
    own, real = (1 / (k * (k - 1) if unbiased else k * k) if k > 1 else 0.0 for k in (n, m))
    if classes:
        with torch.cuda.device_of(x):
            mmd_kernel[(classes * tiles * tiles,)](
                x, *x.stride()[:2], y, *y.stride()[:2], _centre(y), sigmas.contiguous(), sigmas.shape[1], parts,
                weights, rows, n, m, features, tiles_x, tiles, own, -1 / (n * m), real if real_term else 0.0, SIDE=SIDE,
                FEATURES=FEATURES, num_stages=4, **LAUNCH,
            )  # fmt: skip
    if rows:
        weights.diagonal(dim1=1, dim2=2).copy_(weights.sum(2)).neg_()
    diagonal = 0.0 if unbiased else (1 / n + (1 / m if real_term else 0.0)) * sigmas.shape[1]
    return parts.sum(1) + diagonal, weights


def backward(
    upstream: Tensor, weights: Tensor, x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool,
    both: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Of points in float32, bfloat16 or float16; see the reference."""
    grads = torch.empty_like(x), torch.empty_like(y) if both else y.new_empty(0)
    grad_x, grad_y = (_rows(grad) for grad in grads)
    x, y = _rows(x), _rows(y)
    classes, n, features = x.shape
    m = y.shape[1]
    tiles_x, tiles = _tiles(n, m if both else 0, SIDE)
    outs = (grad_x, *grad_x.stride()[:2], *((grad_y, *grad_y.stride()[:2]) if both else (grad_x, 0, 0)))
    if classes:
        with torch.cuda.device_of(x):
            mmd_backward_kernel[(classes * tiles * triton.cdiv(features, WIDTH),)](
                x, *x.stride()[:2], y, *y.stride()[:2], _centre(y), upstream.contiguous(), weights.contiguous(),
                weights.shape[1], *outs, n, m, features, tiles_x, tiles, *_tiles(n, m, STEP), SIDE=SIDE,
                STEP=STEP, FEATURES=WIDTH, num_stages=1, **LAUNCH,
            )  # fmt: skip
    for grad, found in zip(grads, (grad_x, grad_y), strict=True):
        if found is not grad:
            grad.copy_(found)
    return grads


def _tiles(n: int, m: int, side: int) -> tuple[int, int]:
    """Of x, and of both."""
    own = triton.cdiv(n, side)
    return own, own + triton.cdiv(m, side)


def _rows(points: Tensor) -> Tensor:
    """The features of a point next to each other."""
    return points if points.ndim != 3 or points.stride(2) == 1 else points.contiguous()


def _centre(y: Tensor) -> Tensor:
    """Mean point of each class [C, d]."""
    return y.mean(1, dtype=torch.float32)
