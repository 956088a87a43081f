"""Plain-torch definition of augment_batch; works on every device.  It is the oracle of every faster backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def strip_sources(order: Tensor, side: int, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Where each pixel of a shifted and shuffled axis comes from.

    Args:
        order: int [n, f], strip ``order[i, k]`` goes to place k.
        side: pixels of the axis, a multiple of f.
        offset: int [n], pixels by which the picture moved first.

    Returns:
        int64 [n, side], clamped into the picture, and bool [n, side], false where zeros moved in.
    """
    strip = side // order.shape[1]
    within = torch.arange(strip, device=order.device)
    place = (order.long()[:, :, None] * strip + within).flatten(1) - offset.long()[:, None]
    return place.clamp(0, side - 1), (place >= 0) & (place < side)


def shuffled(images: Tensor, columns: Tensor, rows: Tensor, shift: Tensor) -> Tensor:
    """Shift, then permute vertical strips, then horizontal strips: uint8 [n, H, W, 3] of the same."""
    row, row_inside = strip_sources(rows, images.shape[1], shift[:, 0])
    column, column_inside = strip_sources(columns, images.shape[2], shift[:, 1])
    picture = torch.arange(len(images), device=images.device)[:, None, None]
    inside = (row_inside[:, :, None] & column_inside[:, None, :])[..., None]
    return images[picture, row[:, :, None], column[:, None, :]] * inside


def views(pictures: Tensor, boxes: Tensor, flip: Tensor, size: Sequence[int], work: torch.dtype) -> Tensor:
    """Crop, resize and flip uint8 [n, H, W, 3]: [n, 3, h, w] in [0, 1], in ``work`` (float32 or float64)."""
    out = torch.empty((len(pictures), 3, *size), dtype=work, device=pictures.device)
    for i, (top, left, height, width) in enumerate(boxes.tolist()):
        crop = pictures[i, top : top + height, left : left + width].permute(2, 0, 1).contiguous().to(work).div(255)
        out[i] = F.interpolate(crop[None], size=tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]
    return torch.where(flip[:, None, None, None], out.flip(3), out)


def augment_batch(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor, share: float, size: Sequence[int], mean: Sequence[float], std: Sequence[float],
    mixup: bool, dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    """[n, 3, h, w]; computes in float64 when ``dtype`` is float64 and in float32 otherwise."""
    work = torch.float64 if dtype == torch.float64 else torch.float32
    centre = torch.tensor(mean, dtype=work, device=images.device)[:, None, None]
    spread = torch.tensor(std, dtype=work, device=images.device)[:, None, None]
    own = views(shuffled(images[index], columns, rows, shift), boxes, flip, size, work).sub_(centre).div_(spread)
    if mixup:
        mixed = share * own + (1 - share) * own[partner]
    else:
        top, left, height, width = mix_box.tolist()
        window = (..., slice(top, top + height), slice(left, left + width))
        mixed = own.clone()
        mixed[window] = own[partner][window]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(own.shape, dtype=dtype, device=own.device, memory_format=layout).copy_(mixed)
