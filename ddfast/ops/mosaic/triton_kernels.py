"""Triton kernel of mosaic: one launch per batch, one program per (box, tile of its cell)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddfast.ops._antialias.triton_kernels import LAUNCH, ROWS, RUN_TIME, lanes, locate, sample


@triton.jit
def to_nearest(value):
    # 1.5 * 2^23: the sum is rounded to a whole number, half to even
    return (value + 12582912.0) - 12582912.0


@triton.jit
def normalised_and_back(value, channel, mean0, mean1, mean2, std0, std1, std2, inverse0, inverse1, inverse2):
    """255 * restored pixel by the published code's steps, each rounded to float32."""
    mean = tl.where(channel == 0, mean0, tl.where(channel == 1, mean1, mean2))[None, :]
    std = tl.where(channel == 0, std0, tl.where(channel == 1, std1, std2))[None, :]
    inverse = tl.where(channel == 0, inverse0, tl.where(channel == 1, inverse1, inverse2))[None, :]
    normalised = tl.div_rn(tl.div_rn(value, 255.0) - mean, std + tl.zeros_like(value))
    return (tl.div_rn(normalised, inverse + tl.zeros_like(value)) + mean) * 255.0


@triton.jit(do_not_specialize=RUN_TIME)
def mosaic_kernel(pixels, total, offsets, sizes, count, boxes, image_index, out, size, factor, mean0, mean1, mean2,
                  std0, std1, std2, inverse0, inverse1, inverse2,
                  TRUNCATE: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    side = size // factor
    rest = size - side * factor
    across = tl.cdiv(3 * (side + (rest > 0).to(tl.int32)), LANES)
    tiles = tl.cdiv(side + (rest > 0).to(tl.int32), ROWS) * across
    row = tl.program_id(0).to(tl.int64) // tiles
    tile = (tl.program_id(0).to(tl.int64) % tiles).to(tl.int32)
    cell = (row % (factor * factor)).to(tl.int32)
    cell_y = cell // factor
    cell_x = cell - cell_y * factor
    stretch_y = (cell_y < rest).to(tl.int32)  # such a cell is one pixel wider than the patch
    stretch_x = (cell_x < rest).to(tl.int32)

    y = tile // across * ROWS + tl.arange(0, ROWS)
    lane = tile % across * LANES + tl.arange(0, LANES)
    x = lane // 3
    channel = lane - 3 * x
    # nearest-neighbour from s to s + 1 pixels repeats the first: floor(i s / (s + 1)) = i - 1 for i >= 1
    index_y = tl.minimum(tl.maximum(y - stretch_y, 0), side - 1)
    index_x = tl.minimum(tl.maximum(x - stretch_x, 0), side - 1)
    first_row = tl.minimum(tl.maximum(tile // across * ROWS - stretch_y, 0), side - 1)
    last_row = tl.minimum(tl.maximum(tile // across * ROWS + ROWS - 1 - stretch_y, 0), side - 1)

    source, pitch, height, width, valid = locate(pixels, total, offsets, sizes, count, boxes, image_index, row)
    value = tl.zeros([ROWS, LANES], dtype=tl.float32)
    if valid:
        value = sample(source, pitch, height, width, index_y, side, index_x, channel, side, first_row, last_row,
                       ROWS, LANES)  # fmt: skip
        if TRUNCATE:
            value = normalised_and_back(
                value, channel, mean0, mean1, mean2, std0, std1, std2, inverse0, inverse1, inverse2
            )
        else:
            value = to_nearest(value)
        value = tl.minimum(tl.maximum(value, 0.0), 255.0)

    top = cell_y * side + tl.minimum(cell_y, rest)
    left = cell_x * side + tl.minimum(cell_x, rest)
    picture = out + row // (factor * factor) * (3 * size.to(tl.int64) * size)
    place = picture + ((top + y) * (3 * size))[:, None] + (3 * left + lane)[None, :]
    present = (y < side + stretch_y)[:, None] & (x < side + stretch_x)[None, :]
    tl.store(place, value.to(tl.int32).to(tl.uint8), mask=present)


def mosaic(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: int, factor: int, rounding: str, mean: Sequence[float], std: Sequence[float], threads: int,
) -> Tensor:  # fmt: skip
    """uint8 [n, size, size, 3]; a box outside its picture gives a black cell."""
    m = boxes.shape[0]
    out = torch.empty((m // factor**2, size, size, 3), dtype=torch.uint8, device=pixels.device)
    if m == 0:
        return out
    pixels, offsets, sizes, boxes, image_index = (t.contiguous() for t in (pixels, offsets, sizes, boxes, image_index))
    widest = -(-size // factor)
    block = lanes(widest)
    grid = (m * triton.cdiv(widest, ROWS) * triton.cdiv(3 * widest, block),)
    with torch.cuda.device_of(out):
        mosaic_kernel[grid](
            pixels, pixels.numel(), offsets, sizes, offsets.numel(), boxes, image_index, out, size, factor,
            *mean, *std, *[1 / s for s in std],
            TRUNCATE=rounding == "truncate", ROWS=ROWS, LANES=block, **LAUNCH,
        )  # fmt: skip
    return out
