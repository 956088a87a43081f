"""Antialiased resize of one crop out of packed uint8 pictures, a tile at a time.

The separable triangle filter runs horizontally first: for a block of source rows, every lane holds one (column,
channel) of the result, so that neighbouring lanes read neighbouring bytes; the block is then folded into the tile's
rows by a small matrix product with the vertical weights.  Only source rows shared by two tiles are filtered twice.
"""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = 16  # rows of a tile, and source rows of a block: the smallest side of tl.dot
# At 128 registers four blocks fit a multiprocessor and nothing spills (tests/codegen); left alone, ptxas takes 144.
LAUNCH = {"num_warps": 4, "maxnreg": 128, "enable_fp_fusion": True}
# Numbers that must stay run-time values: Triton would turn one that equals 1 into a constant, which has no ``.to``.
RUN_TIME = ("total", "count", "out_height", "out_width", "canvas_height", "canvas_width", "size", "factor")


def lanes(width: int) -> int:
    """Lanes of a tile for rows of ``width`` pixels: 128 unless a whole row fits 64."""
    return 64 if 3 * width <= 64 else 128


@triton.jit
def window(index, inside, outside):
    """Filter window of output ``index`` when ``inside`` source pixels become ``outside``.

    Returns (first, last, shift, inverse): taps first <= x < last have the weight max(0, 1 - |(x - first + shift) *
    inverse|).  The centre (index + 1/2) * inside / outside is split into whole and fraction with integers, so that the
    weights do not lose digits in wide pictures.
    """
    numerator = (2 * index + 1) * inside
    whole = numerator // (2 * outside)
    fraction = tl.div_rn((numerator - whole * (2 * outside)).to(tl.float32), (2 * outside).to(tl.float32))
    shrink = tl.div_rn(inside.to(tl.float32), outside.to(tl.float32))
    support = tl.maximum(shrink, 1.0)
    inverse = tl.div_rn(1.0, support)
    first = tl.maximum(whole + tl.floor(fraction - support + 0.5).to(tl.int32), 0)
    last = tl.minimum(whole + tl.floor(fraction + support + 0.5).to(tl.int32), inside)
    shift = (first - whole).to(tl.float32) + (0.5 - fraction)
    return first, last, shift, inverse


@triton.jit
def triangle(distance, inverse, present):
    return tl.where(present, tl.maximum(1.0 - tl.abs(distance * inverse), 0.0), 0.0)


@triton.jit
def locate(pixels, total, offsets, sizes, count, boxes, image_index, row):
    """Box ``row``: (pointer to its first byte, bytes per source row, height, width, whether it lies in its picture).

    The host does not wait for the device to check boxes, so a wrong one must not be followed.
    """
    image = tl.load(image_index + row)
    known = (image >= 0) & (image < count)
    offset = tl.load(offsets + image, mask=known, other=0)
    picture_height = tl.load(sizes + 2 * image.to(tl.int64), mask=known, other=0)
    picture_width = tl.load(sizes + 2 * image.to(tl.int64) + 1, mask=known, other=0)
    top = tl.load(boxes + 4 * row)
    left = tl.load(boxes + 4 * row + 1)
    height = tl.load(boxes + 4 * row + 2)
    width = tl.load(boxes + 4 * row + 3)
    pitch = 3 * picture_width.to(tl.int64)
    valid = known & (top >= 0) & (left >= 0) & (height > 0) & (width > 0)
    valid = valid & (height <= picture_height - top) & (width <= picture_width - left)
    valid = valid & (offset >= 0) & (offset + pitch * picture_height <= total)
    return pixels + offset + pitch * top + 3 * left, pitch, height, width, valid


@triton.jit
def sample(source, pitch, height, width, index_y, out_height, index_x, channel, out_width, first_row, last_row,
           ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    """Resized values, times 255: float32 [ROWS, LANES] of output rows ``index_y`` and lanes (``index_x``, channel).

    ``index_y`` ascends from ``first_row`` to ``last_row``; indices beyond the patch must have been clamped into it.
    """
    top, bottom, shift_y, inverse_y = window(index_y, height, out_height)
    begin, _, _, _ = window(first_row, height, out_height)
    _, end, _, _ = window(last_row, height, out_height)
    left, right, shift_x, inverse_x = window(index_x, width, out_width)
    taps = tl.maximum((2 * width + out_width - 1) // out_width, 2)

    total_x = tl.zeros([LANES], dtype=tl.float32)
    for t in range(taps):
        total_x += triangle(shift_x + t, inverse_x, left + t < right)

    values = tl.zeros([ROWS, LANES], dtype=tl.float32)
    total_y = tl.zeros([ROWS], dtype=tl.float32)
    for y0 in range(begin, end, ROWS):
        block = source + y0 * pitch
        step = tl.minimum(tl.arange(0, ROWS), height - 1 - y0)  # rows past the crop have no weight: repeat its last
        lines = step * pitch.to(tl.int32)
        strip = tl.zeros([ROWS, LANES], dtype=tl.float32)
        for t in range(taps):
            x = tl.minimum(left + t, width - 1)
            byte = tl.load(block + (lines[:, None] + (3 * x + channel)[None, :]))
            weight = triangle(shift_x + t, inverse_x, left + t < right)
            strip += weight[None, :] * byte.to(tl.float32)
        y = y0 + tl.arange(0, ROWS)
        present = (y[None, :] >= top[:, None]) & (y[None, :] < bottom[:, None])
        weight_y = triangle((y[None, :] - top[:, None]).to(tl.float32) + shift_y[:, None], inverse_y, present)
        total_y += tl.sum(weight_y, axis=1)
        values = tl.dot(weight_y, strip, values, input_precision="tf32x3")
    return values * tl.div_rn(1.0, total_y)[:, None] * tl.div_rn(1.0, total_x)[None, :]
