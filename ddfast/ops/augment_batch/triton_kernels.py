"""Triton kernel of augment_batch: one launch per batch, one program per (sample, tile of its view)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddfast.ops._antialias.triton_kernels import LAUNCH, ROWS, triangle, window

LANES = 64  # of a tile: with 128 and 4 warps the kernel spills, and more tiles would straddle the mixing box's border
# Numbers that must stay run-time values: Triton would turn one that equals 1 into a constant, which has no ``.to``.
RUN_TIME = ("count", "height", "width", "factor", "samples", "out_height", "out_width")


@triton.jit
def source_of(place, order, strip, side, offset):
    """Pixel of the picture that ``place`` of the shifted, shuffled axis shows, and whether there is one."""
    number = place // strip
    source = tl.load(order + number) * strip + place - number * strip - offset
    return source, (source >= 0) & (source < side)


@triton.jit
def view(images, count, height, width, index, columns, rows, factor, boxes, flip, shift, sample, x, channel, tile_y,
         out_height, out_width, ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """Grey levels float32 [ROWS, LANES] of a tile of sample ``sample``'s view; NaN where its draw is out of range."""
    image = tl.load(index + sample)
    top = tl.load(boxes + 4 * sample)
    left = tl.load(boxes + 4 * sample + 1)
    inside_y = tl.load(boxes + 4 * sample + 2)
    inside_x = tl.load(boxes + 4 * sample + 3)
    valid = (image >= 0) & (image < count) & (top >= 0) & (left >= 0) & (inside_y > 0) & (inside_x > 0)
    valid = valid & (inside_y <= height - top) & (inside_x <= width - left)
    values = tl.full([ROWS, LANES], float("nan"), dtype=tl.float32)
    if valid:
        picture = images + image * height * width * 3
        mirrored = tl.load(flip + sample)
        index_x = tl.minimum(x, out_width - 1)
        index_x = tl.where(mirrored != 0, out_width - 1 - index_x, index_x)
        index_y = tl.minimum(tile_y + tl.arange(0, ROWS), out_height - 1)
        down = tl.load(shift + 2 * sample)
        right = tl.load(shift + 2 * sample + 1)
        first_y, last_y, shift_y, inverse_y = window(index_y, inside_y, out_height)
        begin, _, _, _ = window(tile_y, inside_y, out_height)
        _, end, _, _ = window(tl.minimum(tile_y + ROWS - 1, out_height - 1), inside_y, out_height)
        first_x, last_x, shift_x, inverse_x = window(index_x, inside_x, out_width)
        taps = tl.maximum((2 * inside_x + out_width - 1) // out_width, 2)
        total_x = tl.zeros([LANES], dtype=tl.float32)
        for t in range(taps):
            total_x += triangle(shift_x + t, inverse_x, first_x + t < last_x)
        values = tl.zeros([ROWS, LANES], dtype=tl.float32)
        total_y = tl.zeros([ROWS], dtype=tl.float32)
        for y0 in range(begin, end, ROWS):
            y = y0 + tl.arange(0, ROWS)
            # rows past the crop have no weight: repeat its last
            row, row_there = source_of(top + tl.minimum(y, inside_y - 1), rows + sample * factor, height // factor,
                                       height, down)  # fmt: skip
            line = row * (width * 3)
            strip = tl.zeros([ROWS, LANES], dtype=tl.float32)
            for t in range(taps):
                place = left + tl.minimum(first_x + t, inside_x - 1)
                column, there = source_of(place, columns + sample * factor, width // factor, width, right)
                where = line[:, None] + (3 * column + channel)[None, :]
                byte = tl.load(picture + where, mask=row_there[:, None] & there[None, :], other=0)
                strip += triangle(shift_x + t, inverse_x, first_x + t < last_x)[None, :] * byte.to(tl.float32)
            present = (y[None, :] >= first_y[:, None]) & (y[None, :] < last_y[:, None])
            weight_y = triangle((y[None, :] - first_y[:, None]).to(tl.float32) + shift_y[:, None], inverse_y, present)
            total_y += tl.sum(weight_y, axis=1)
            values = tl.dot(weight_y, strip, values, input_precision="tf32x3")
        values = values * tl.div_rn(1.0, total_y)[:, None] * tl.div_rn(1.0, total_x)[None, :]
    return values


@triton.jit(do_not_specialize=RUN_TIME)
def augment_batch_kernel(images, count, height, width, index, columns, rows, factor, boxes, flip, shift, partner,
                         mix_box, samples, out, stride_n, stride_c, stride_h, stride_w, out_height, out_width, share,
                         rest, scale0, scale1, scale2, bias0, bias1, bias2, MIXUP: tl.constexpr, ROWS: tl.constexpr,
                         LANES: tl.constexpr):  # fmt: skip
    across = tl.cdiv(3 * out_width, LANES)
    tiles = tl.cdiv(out_height, ROWS) * across
    sample = tl.program_id(0).to(tl.int64) // tiles
    tile = (tl.program_id(0).to(tl.int64) % tiles).to(tl.int32)
    # a lane is one channel of one column, channels fastest: the order of the source's bytes and of channels_last
    tile_y = tile // across * ROWS
    y = tile_y + tl.arange(0, ROWS)
    lane = tile % across * LANES + tl.arange(0, LANES)
    x = lane // 3
    channel = lane - 3 * x

    # which of the two views this tile shows: the own one, the partner's, or both where the box's border runs through
    box_top = tl.load(mix_box)
    box_left = tl.load(mix_box + 1)
    box_bottom = box_top + tl.load(mix_box + 2)
    box_right = box_left + tl.load(mix_box + 3)
    tile_x = tile % across * LANES // 3
    bottom = tl.minimum(tile_y + ROWS, out_height)
    right = tl.minimum((tile % across * LANES + LANES - 1) // 3 + 1, out_width)
    first = 0
    last = 2
    if not MIXUP:
        within = (tile_y >= box_top) & (bottom <= box_bottom) & (tile_x >= box_left) & (right <= box_right)
        meets = (tile_y < box_bottom) & (bottom > box_top) & (tile_x < box_right) & (right > box_left)
        meets = meets & (box_top < box_bottom) & (box_left < box_right)
        first = tl.where(within, 1, 0)
        last = tl.where(meets, 2, 1)
    inside = ((y >= box_top) & (y < box_bottom))[:, None] & ((x >= box_left) & (x < box_right))[None, :]

    values = tl.zeros([ROWS, LANES], dtype=tl.float32)
    for part in range(first, last):
        other = tl.load(partner + sample)
        known = (part == 0) | ((other >= 0) & (other < samples))
        shown = tl.where(part == 0, sample, tl.where(known, other, 0))
        levels = view(images, count, height, width, index, columns, rows, factor, boxes, flip, shift, shown, x, channel,
                      tile_y, out_height, out_width, ROWS, LANES)  # fmt: skip
        levels = tl.where(known, levels, float("nan"))
        if MIXUP:
            values += levels * tl.where(part == 0, share, rest)
        else:
            values = tl.where(inside == (part == 1), levels, values)

    scale = tl.where(channel == 0, scale0, tl.where(channel == 1, scale1, scale2))
    bias = tl.where(channel == 0, bias0, tl.where(channel == 1, bias1, bias2))
    values = values * scale[None, :] + bias[None, :]
    place = out + sample * stride_n + (y * stride_h)[:, None] + (x * stride_w + channel * stride_c)[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=(y < out_height)[:, None] & (x < out_width)[None, :])


def augment_batch(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor, share: float, size: Sequence[int], mean: Sequence[float], std: Sequence[float],
    mixup: bool, dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    """[n, 3, h, w] in float32, bfloat16 or float16; a sample or partner out of range gives NaN."""
    n, (height, width) = index.shape[0], size
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((n, 3, height, width), dtype=dtype, device=images.device, memory_format=layout)
    if n == 0:
        return out
    draws = [t.contiguous() for t in (index, columns, rows, boxes, flip, shift, partner, mix_box)]
    index, columns, rows, boxes, flip, shift, partner, mix_box = draws
    grid = (n * triton.cdiv(height, ROWS) * triton.cdiv(3 * width, LANES),)
    scale = [1 / (255 * s) for s in std]
    bias = [-c / s for c, s in zip(mean, std, strict=True)]
    with torch.cuda.device_of(out):
        augment_batch_kernel[grid](
            images, *images.shape[:3], index, columns, rows, columns.shape[1], boxes, flip.view(torch.uint8), shift,
            partner, mix_box, n, out, *out.stride(), height, width, share, 1 - share, *scale, *bias, MIXUP=mixup,
            ROWS=ROWS, LANES=LANES, **LAUNCH,
        )  # fmt: skip
    return out
