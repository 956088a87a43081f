"""Checks of augment_batch's arguments: shapes always, values where the caller asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ddfast.ops._checks import check_device, check_tensor


def check_shapes(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor,
) -> None:  # fmt: skip
    """Raises TypeError or ValueError unless types, shapes, devices and the set's memory format are as they must be."""
    check_tensor("images", images, torch.uint8, (None, None, None, 3))
    if not images.is_contiguous():
        raise ValueError(f"images: got strides {images.stride()}, expected a contiguous tensor (call .contiguous())")
    check_tensor("index", index, torch.int64, (None,))
    count = index.shape[0]
    check_tensor("columns", columns, torch.int32, (count, None))
    check_tensor("rows", rows, torch.int32, (count, columns.shape[1]))
    check_tensor("boxes", boxes, torch.int32, (count, 4))
    check_tensor("flip", flip, torch.bool, (count,))
    check_tensor("shift", shift, torch.int32, (count, 2))
    check_tensor("partner", partner, torch.int64, (count,))
    check_tensor("mix_box", mix_box, torch.int32, (4,))
    check_device(images, index=index, columns=columns, rows=rows, boxes=boxes, flip=flip, shift=shift, partner=partner)
    check_device(images, mix_box=mix_box)
    height, width = images.shape[1:3]
    factor = columns.shape[1]
    if factor < 1 or height % factor or width % factor:
        raise ValueError(
            f"columns: got {factor} strips for pictures of {height}x{width} pixels, expected a number that divides both"
        )


def check_draws(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor, size: Sequence[int],
) -> None:  # fmt: skip
    """Raises ValueError naming the first sample whose draw is out of range.

    Code compiled by ``torch.compile`` goes without this check.
    """
    if torch.compiler.is_compiling():  # values cannot be looked at while tracing
        return
    for name, value, limit in (
        ("index", index, images.shape[0]),
        ("partner", partner, index.shape[0]),
        ("columns", columns, columns.shape[1]),
        ("rows", rows, rows.shape[1]),
    ):
        _refuse(name, value, (value < 0) | (value >= limit), f"numbers from 0 to {limit - 1}")
    box, picture = boxes.long(), torch.tensor(images.shape[1:3], device=boxes.device)
    outside = (box[:, :2] < 0) | (box[:, 2:] < 1) | (box[:, :2] + box[:, 2:] > picture)
    _refuse("boxes", boxes, outside, f"(top, left, height, width) inside {images.shape[1]}x{images.shape[2]} pixels")
    top, left, height, width = mix_box.tolist()
    if min(top, left, height, width) < 0 or top + height > size[0] or left + width > size[1]:
        wanted = f"(top, left, height, width) inside the view of {size[0]}x{size[1]} pixels"
        raise ValueError(f"mix_box: got {mix_box.tolist()}, expected {wanted}")


def _refuse(name: str, value: Tensor, wrong: Tensor, wanted: str) -> None:
    if wrong.numel() and bool(wrong.any()):
        row = int(wrong.reshape(len(value), -1).any(1).nonzero()[0])
        raise ValueError(f"{name}: row {row} is {value[row].tolist()}, expected {wanted}")
