"""Triton kernels of dsa and its transpose: one program per (picture, run of pixels), all channels at once.

Both read their picture's parameters first, so programs of one launch may do different things. The transpose gathers: a
pixel looks for those whose source lies within a pixel of it, by the inverse map, in a fixed order and without atomics.
A picture's mean is taken anew by each of its programs where the contrast asks for it, which suits small pictures.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LAUNCH = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": True}
VALUES = 1024  # that a program holds: pixels times channels, the latter rounded up to a power of two
SLACK = tl.constexpr(0.01)  # in pixels, above the rounding of the inverse map


@triton.jit
def colours(row):
    """Factors of a pixel and of its grey, and of the picture's mean."""
    saturation = tl.load(row + 1).to(tl.float32)
    contrast = tl.load(row + 2).to(tl.float32)
    return contrast * saturation, contrast * (1.0 - saturation), 1.0 - contrast


@triton.jit
def source(row, first, y, x):
    """Coordinate of the source of pixels (y, x)."""
    a = tl.load(row + first).to(tl.float32)
    b = tl.load(row + first + 1).to(tl.float32)
    c = tl.load(row + first + 2).to(tl.float32)
    return a * y.to(tl.float32) + b * x.to(tl.float32) + c


@triton.jit
def visible(row, y, x):
    """Where the cutout leaves pixels."""
    top = tl.load(row + 9).to(tl.float32)
    bottom = tl.load(row + 10).to(tl.float32)
    left = tl.load(row + 11).to(tl.float32)
    right = tl.load(row + 12).to(tl.float32)
    fy = y.to(tl.float32)
    fx = x.to(tl.float32)
    return (fy < top) | (fy >= bottom) | (fx < left) | (fx >= right)


@triton.jit
def inside(at, side):
    """Share of a source that lies in the picture, along one axis."""
    return tl.minimum(tl.maximum(tl.minimum(at + 1.0, side - at), 0.0), 1.0)


@triton.jit
def tap(base, stride_c, stride_h, stride_w, channel, channels, y, x, where):
    """[CHANNELS, PIXELS] of a picture at (y, x), 0 elsewhere than ``where``."""
    place = base + channel[:, None] * stride_c + (y * stride_h + x * stride_w)[None, :]
    return tl.load(place, mask=(channel < channels)[:, None] & where[None, :], other=0.0).to(tl.float32)


@triton.jit
def dsa_kernel(images, in_n, in_c, in_h, in_w, table, stride_p, out, out_n, out_c, out_h, out_w, channels, height,
               width, per_channel, per_value, ADDEND: tl.constexpr, CHANNELS: tl.constexpr,
               PIXELS: tl.constexpr):  # fmt: skip
    pixels = height * width
    tiles = tl.cdiv(pixels, PIXELS)
    picture = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    base = images + picture * in_n
    row = table + picture * stride_p
    own, grey, middle = colours(row)

    constant = 0.0
    if middle != 0.0:
        total = tl.zeros([CHANNELS, PIXELS], dtype=tl.float32)
        for start in range(0, pixels, PIXELS):
            at = start + tl.arange(0, PIXELS)
            total += tap(base, in_c, in_h, in_w, channel, channels, at // width, at % width, at < pixels)
        constant = middle * (tl.sum(tl.sum(total, axis=1), axis=0) * per_value)
    if ADDEND:
        constant += tl.load(row).to(tl.float32)

    y = pixel // width
    x = pixel % width
    v = tl.minimum(tl.maximum(source(row, 3, y, x), -1.0), height)
    u = tl.minimum(tl.maximum(source(row, 6, y, x), -1.0), width)
    shown = (pixel < pixels) & visible(row, y, x)
    top = tl.floor(v)
    left = tl.floor(u)
    value = tl.zeros([CHANNELS, PIXELS], dtype=tl.float32)
    for i in tl.static_range(2):
        for j in tl.static_range(2):
            weight_y = v - top if i else 1.0 - (v - top)
            weight_x = u - left if j else 1.0 - (u - left)
            ty = top.to(tl.int32) + i
            tx = left.to(tl.int32) + j
            there = shown & (ty >= 0) & (ty < height) & (tx >= 0) & (tx < width)
            value += (weight_y * weight_x)[None, :] * tap(base, in_c, in_h, in_w, channel, channels, ty, tx, there)
    average = tl.sum(value, axis=0) * per_channel
    rest = grey * average + constant * inside(v, height) * inside(u, width)
    value = tl.where(shown[None, :], own * value + rest[None, :], 0.0)
    place = out + picture * out_n + channel[:, None] * out_c + (y * out_h + x * out_w)[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=(channel < channels)[:, None] & (pixel < pixels)[None, :])


@triton.jit
def reach(extent, centre, side):
    """First pixel and number of pixels along one axis whose source may be near; all where that is no less."""
    extent = extent + SLACK
    known = 2.0 * extent < side
    first = tl.where(known, tl.ceil(centre - extent), 0.0).to(tl.int32)
    count = tl.where(known, tl.floor(2.0 * extent) + 1.0, side).to(tl.int32)
    return first, count


@triton.jit
def dsa_adjoint_kernel(gradient, in_n, in_c, in_h, in_w, table, stride_p, out, out_n, out_c, out_h, out_w, channels,
                       height, width, per_channel, per_value, CHANNELS: tl.constexpr,
                       PIXELS: tl.constexpr):  # fmt: skip
    pixels = height * width
    tiles = tl.cdiv(pixels, PIXELS)
    picture = (tl.program_id(0) // tiles).to(tl.int64)
    pixel = tl.program_id(0) % tiles * PIXELS + tl.arange(0, PIXELS)
    channel = tl.arange(0, CHANNELS)
    base = gradient + picture * in_n
    row = table + picture * stride_p
    own, grey, middle = colours(row)

    constant = 0.0
    if middle != 0.0:
        total = tl.zeros([CHANNELS, PIXELS], dtype=tl.float32)
        for start in range(0, pixels, PIXELS):
            at = start + tl.arange(0, PIXELS)
            y = at // width
            x = at % width
            shown = (at < pixels) & visible(row, y, x)
            share = inside(source(row, 3, y, x), height) * inside(source(row, 6, y, x), width)
            total += tap(base, in_c, in_h, in_w, channel, channels, y, x, shown) * share[None, :]
        constant = middle * (tl.sum(tl.sum(total, axis=1), axis=0) * per_value)

    yy = tl.load(row + 3).to(tl.float32)
    yx = tl.load(row + 4).to(tl.float32)
    xy = tl.load(row + 6).to(tl.float32)
    xx = tl.load(row + 7).to(tl.float32)
    scale = 1.0 / (yy * xx - yx * xy)
    qy = (pixel // width).to(tl.float32)
    qx = (pixel % width).to(tl.float32)
    dy = qy - tl.load(row + 5).to(tl.float32)
    dx = qx - tl.load(row + 8).to(tl.float32)
    first_y, count_y = reach((tl.abs(xx) + tl.abs(yx)) * tl.abs(scale), (xx * dy - yx * dx) * scale, height)
    first_x, count_x = reach((tl.abs(xy) + tl.abs(yy)) * tl.abs(scale), (yy * dx - xy * dy) * scale, width)
    value = tl.zeros([CHANNELS, PIXELS], dtype=tl.float32)
    for i in range(count_y):
        for j in range(count_x):
            y = first_y + i
            x = first_x + j
            weight_y = tl.maximum(1.0 - tl.abs(source(row, 3, y, x) - qy), 0.0)
            weight_x = tl.maximum(1.0 - tl.abs(source(row, 6, y, x) - qx), 0.0)
            weight = weight_y * weight_x
            there = (pixel < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width) & (weight > 0.0)
            there = there & visible(row, y, x)
            value += weight[None, :] * tap(base, in_c, in_h, in_w, channel, channels, y, x, there)
    rest = grey * (tl.sum(value, axis=0) * per_channel) + constant
    value = own * value + rest[None, :]
    place = out + picture * out_n + channel[:, None] * out_c + (pixel // width * out_h + pixel % width * out_w)[None, :]
    tl.store(place, value.to(out.dtype.element_ty), mask=(channel < channels)[:, None] & (pixel < pixels)[None, :])


def dsa(images: Tensor, params: Tensor, addend: bool) -> Tensor:
    """[n, c, H, W] in float32, bfloat16 or float16; see the reference."""
    return _launch(dsa_kernel, images, params, ADDEND=addend)


def dsa_adjoint(gradient: Tensor, params: Tensor) -> Tensor:
    """Of ``gradient``'s shape, in float32, bfloat16 or float16; see the reference."""
    return _launch(dsa_adjoint_kernel, gradient, params)


def _launch(kernel: object, images: Tensor, params: Tensor, **options: bool) -> Tensor:
    out = torch.empty_like(images)
    n, c, height, width = images.shape
    if images.numel() == 0:
        return out
    params = params.contiguous()
    channels = triton.next_power_of_2(c)
    pixels = min(VALUES // channels, triton.next_power_of_2(height * width))
    with torch.cuda.device_of(out):
        kernel[(n * triton.cdiv(height * width, pixels),)](  # type: ignore[index]
            images, *images.stride(), params, 0 if len(params) == 1 else params.stride(0), out, *out.stride(), c,
            height, width, 1 / c, 1 / (c * height * width), **options, CHANNELS=channels, PIXELS=pixels, **LAUNCH,
        )  # fmt: skip
    return out
