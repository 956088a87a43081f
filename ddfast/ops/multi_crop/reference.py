"""Plain-torch definition of multi_crop; works on every device.  It is the oracle of every faster backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def cut(pixels: Tensor, offsets: Tensor, sizes: Tensor, box: Tensor, image: int) -> Tensor:
    """The crop as uint8 [h, w, 3], a view of ``pixels``."""
    height, width = sizes[image].tolist()
    start = int(offsets[image])
    top, left, h, w = box.tolist()
    picture = pixels[start : start + 3 * height * width].view(height, width, 3)
    return picture[top : top + h, left : left + w]


def resize(crop: Tensor, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Antialiased bilinear resize of the crop alone, scaled to [0, 1]: [3, h, w] in ``dtype`` (float32 or float64)."""
    chw = crop.permute(2, 0, 1).contiguous().to(dtype).div(255)[None]
    return F.interpolate(chw, size=tuple(size), mode="bilinear", antialias=True, align_corners=False)[0]


def multi_crop_out(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], canvas_value: float, threads: int, out: Tensor,
) -> None:  # fmt: skip
    """Fills ``out``; computes in float64 when ``out`` is float64 and in float32 otherwise."""
    work = torch.float64 if out.dtype == torch.float64 else torch.float32
    centre = torch.tensor(mean, dtype=work, device=out.device)[:, None, None]
    spread = torch.tensor(std, dtype=work, device=out.device)[:, None, None]
    top, left = (out.shape[2] - size[0]) // 2, (out.shape[3] - size[1]) // 2
    out.fill_(canvas_value)
    for row, image in enumerate(image_index.tolist()):
        patch = resize(cut(pixels, offsets, sizes, boxes[row], image), size, work)
        out[row, :, top : top + size[0], left : left + size[1]] = patch.sub_(centre).div_(spread)


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
