"""Checks of the arguments that cut boxes out of a packed batch of pictures (shared by multi_crop and mosaic)."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast.ops._checks import check_device, check_tensor


def check_ragged(pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor) -> None:
    """Raises TypeError or ValueError unless types, shapes, devices and contiguity are those of a packed batch."""
    check_tensor("pixels", pixels, torch.uint8, (None,))
    check_tensor("offsets", offsets, torch.int64, (None,))
    check_tensor("sizes", sizes, torch.int32, (offsets.shape[0], 2))
    check_tensor("boxes", boxes, torch.int32, (None, 4))
    check_tensor("image_index", image_index, torch.int32, (boxes.shape[0],))
    if not pixels.is_contiguous():
        raise ValueError(f"pixels: got stride {pixels.stride(0)}, expected a contiguous tensor (call .contiguous())")
    check_device(pixels, offsets=offsets, sizes=sizes, boxes=boxes, image_index=image_index)


def check_boxes(pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor) -> None:
    """Raises ValueError unless every box is a non-empty part of its picture and every picture lies in ``pixels``.

    Code compiled by ``torch.compile`` goes without this check.
    """
    if torch.compiler.is_compiling() or boxes.shape[0] == 0:  # values cannot be looked at while tracing
        return
    count = offsets.shape[0]
    out_of_range = (image_index < 0) | (image_index >= count)
    if bool(out_of_range.any()):
        row = int(out_of_range.nonzero()[0])
        raise ValueError(f"image_index: row {row} is {int(image_index[row])}, expected 0 to {count - 1}")
    size, box = sizes[image_index].long(), boxes.long()
    inside = (box[:, :2] >= 0) & (box[:, 2:] > 0) & (box[:, :2] + box[:, 2:] <= size)
    if not bool(inside.all()):
        row = int((~inside.all(1)).nonzero()[0])
        raise ValueError(
            f"boxes: row {row} is {box[row].tolist()} (top, left, height, width), expected a box of at least one pixel "
            f"inside picture {int(image_index[row])} of size {size[row].tolist()}"
        )
    start = offsets[image_index]
    packed = (start >= 0) & (start + 3 * size[:, 0] * size[:, 1] <= pixels.shape[0])
    if not bool(packed.all()):
        image = int(image_index[int((~packed).nonzero()[0])])
        raise ValueError(
            f"offsets: picture {image} of size {sizes[image].tolist()} at byte {int(offsets[image])} is not inside "
            f"pixels, which has {pixels.shape[0]} bytes"
        )


def check_positive(name: str, *values: int) -> None:
    """Raises ValueError unless all values are at least 1."""
    if min(values) < 1:
        raise ValueError(f"{name}: got {values if len(values) > 1 else values[0]}, expected at least 1")


def ragged_address(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor
) -> tuple[tuple[int, int, int, int, int, int, int, int], tuple[Tensor, ...]]:
    """Addresses and lengths for the native entries, and the tensors that must live until they return."""
    kept = tuple(t.contiguous() for t in (pixels, offsets, sizes, boxes, image_index))
    p, o, s, b, i = (t.data_ptr() for t in kept)
    return (p, pixels.numel(), o, s, offsets.numel(), b, i, image_index.numel()), kept
