"""Plain-torch definition of mosaic; works on every device.  It is the oracle of every faster backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def resized_patch(pixels: Tensor, offsets: Tensor, sizes: Tensor, box: Tensor, image: int, side: int) -> Tensor:
    """Crop as float32 [3, side, side] in [0, 1], resized with the antialiased triangle filter."""
    height, width = sizes[image].tolist()
    start = int(offsets[image])
    top, left, h, w = box.tolist()
    picture = pixels[start : start + 3 * height * width].view(height, width, 3)
    crop = picture[top : top + h, left : left + w].permute(2, 0, 1).contiguous().float().div(255)[None]
    return F.interpolate(crop, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]


def to_bytes(value: Tensor, rounding: str, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """float32 [3, h, w] in [0, 1] -> uint8, rounded to nearest even or by RDED's normalise-denormalise path."""
    if rounding == "nearest":
        return value.mul(255).round_().clamp_(0, 255).to(torch.uint8)
    centre = torch.tensor(mean, dtype=torch.float32, device=value.device)[:, None, None]
    spread = torch.tensor(std, dtype=torch.float32, device=value.device)[:, None, None]
    inverse = torch.tensor([1 / s for s in std], dtype=torch.float32, device=value.device)[:, None, None]
    restored = value.sub(centre).div_(spread).div_(inverse).add_(centre).mul_(255)
    return restored.trunc_().clamp_(0, 255).to(torch.uint8)


def mosaic(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: int, factor: int, rounding: str, mean: Sequence[float], std: Sequence[float], threads: int,
) -> Tensor:  # fmt: skip
    """uint8 [n, size, size, 3]; row j * factor**2 + k of ``boxes`` fills cell k (row-major) of picture j."""
    side, rest = divmod(size, factor)
    edges = [i * side + min(i, rest) for i in range(factor + 1)]
    cells = factor * factor
    out = torch.empty((boxes.shape[0] // cells, size, size, 3), dtype=torch.uint8, device=pixels.device)
    for row, image in enumerate(image_index.tolist()):
        target, (i, j) = row // cells, divmod(row % cells, factor)
        value = resized_patch(pixels, offsets, sizes, boxes[row], image, side)
        cell = (edges[i + 1] - edges[i], edges[j + 1] - edges[j])
        value = F.interpolate(value[None], size=cell, mode="nearest")[0]
        bytes_ = to_bytes(value, rounding, mean, std).permute(1, 2, 0)
        out[target, edges[i] : edges[i + 1], edges[j] : edges[j + 1]] = bytes_
    return out
