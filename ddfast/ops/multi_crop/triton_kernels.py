"""Triton kernel of multi_crop: one launch per batch, one program per (box, tile of its canvas)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddfast.ops._antialias.triton_kernels import LAUNCH, ROWS, RUN_TIME, lanes, locate, sample


@triton.jit(do_not_specialize=RUN_TIME)
def multi_crop_kernel(pixels, total, offsets, sizes, count, boxes, image_index, out, stride_n, stride_c, stride_h,
                      stride_w, out_height, out_width, canvas_height, canvas_width, scale0, scale1, scale2, bias0,
                      bias1, bias2, canvas_value, ROWS: tl.constexpr, LANES: tl.constexpr):  # fmt: skip
    across = tl.cdiv(3 * canvas_width, LANES)
    tiles = tl.cdiv(canvas_height, ROWS) * across
    row = tl.program_id(0).to(tl.int64) // tiles
    tile = (tl.program_id(0).to(tl.int64) % tiles).to(tl.int32)

    # a lane is one channel of one column, channels fastest: the order of the source's bytes and of channels_last
    y = tile // across * ROWS + tl.arange(0, ROWS)
    lane = tile % across * LANES + tl.arange(0, LANES)
    x = lane // 3
    channel = lane - 3 * x
    pad_y = (canvas_height - out_height) // 2
    pad_x = (canvas_width - out_width) // 2
    patch_y = y - pad_y
    patch_x = x - pad_x
    first_row = tl.maximum(tile // across * ROWS - pad_y, 0)
    last_row = tl.minimum(tile // across * ROWS + ROWS - 1 - pad_y, out_height - 1)
    first_column = tl.maximum(tile % across * LANES // 3 - pad_x, 0)
    last_column = tl.minimum((tile % across * LANES + LANES - 1) // 3 - pad_x, out_width - 1)

    values = tl.full([ROWS, LANES], 0.0, dtype=tl.float32) + canvas_value
    if (first_row <= last_row) & (first_column <= last_column):
        source, pitch, height, width, valid = locate(pixels, total, offsets, sizes, count, boxes, image_index, row)
        inside = ((patch_y >= 0) & (patch_y < out_height))[:, None] & ((patch_x >= 0) & (patch_x < out_width))[None, :]
        patch = tl.full([ROWS, LANES], float("nan"), dtype=tl.float32)
        if valid:
            index_y = tl.minimum(tl.maximum(patch_y, 0), out_height - 1)
            index_x = tl.minimum(tl.maximum(patch_x, 0), out_width - 1)
            resized = sample(source, pitch, height, width, index_y, out_height, index_x, channel, out_width, first_row,
                             last_row, ROWS, LANES)  # fmt: skip
            scale = tl.where(channel == 0, scale0, tl.where(channel == 1, scale1, scale2))
            bias = tl.where(channel == 0, bias0, tl.where(channel == 1, bias1, bias2))
            patch = resized * scale[None, :] + bias[None, :]
        values = tl.where(inside, patch, values)

    place = out + row * stride_n + (y * stride_h)[:, None] + (x * stride_w + channel * stride_c)[None, :]
    present = (y < canvas_height)[:, None] & (x < canvas_width)[None, :]
    tl.store(place, values.to(out.dtype.element_ty), mask=present)


def multi_crop_out(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], canvas_value: float, threads: int, out: Tensor,
) -> None:  # fmt: skip
    """Fills ``out`` (float32, bfloat16 or float16, any strides); a box outside its picture gives NaN."""
    m, _, height, width = out.shape
    if m == 0:
        return
    pixels, offsets, sizes, boxes, image_index = (t.contiguous() for t in (pixels, offsets, sizes, boxes, image_index))
    block = lanes(width)
    grid = (m * triton.cdiv(height, ROWS) * triton.cdiv(3 * width, block),)
    scale = [1 / (255 * s) for s in std]
    bias = [-c / s for c, s in zip(mean, std, strict=True)]
    with torch.cuda.device_of(out):
        multi_crop_kernel[grid](
            pixels, pixels.numel(), offsets, sizes, offsets.numel(), boxes, image_index, out, *out.stride(),
            size[0], size[1], height, width, *scale, *bias, canvas_value, ROWS=ROWS, LANES=block, **LAUNCH,
        )  # fmt: skip


def multi_crop(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], canvas: Sequence[int] | None, canvas_value: float,
    dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    """Allocates and fills [m, 3, h|H, w|W]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (boxes.shape[0], 3, *(size if canvas is None else canvas))
    out = torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=layout)
    multi_crop_out(pixels, offsets, sizes, boxes, image_index, size, mean, std, canvas_value, threads, out)
    return out
