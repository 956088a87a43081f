"""Augmentation of whole batches on the device that holds the images; all randomness arrives as tensors.

The ``draw_*`` functions draw these tensors from a CPU generator, so that the draw is the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddfast._types import Normalization
from ddfast.ops import multi_crop


def normalize(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in channels-last order: (x / 255 - mean) / std."""
    mean = torch.tensor(normalization.mean, device=images.device) * 255
    std = torch.tensor(normalization.std, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def flip(images: Tensor, mask: Tensor) -> Tensor:
    """Mirror left and right the pictures [n, H, W, 3] whose ``mask`` bool [n] is set."""
    return torch.where(mask[:, None, None, None], images.flip(2), images)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each picture [n, H, W, 3] down and right by ``offsets`` int64 [n, 2] pixels; uncovered pixels become 0."""
    rows, row_ok = _moved(images.shape[1], offsets[:, 0])
    columns, column_ok = _moved(images.shape[2], offsets[:, 1])
    picture = torch.arange(len(images), device=images.device)[:, None, None]
    inside = (row_ok[:, :, None] & column_ok[:, None, :])[..., None]
    return images[picture, rows[:, :, None], columns[:, None, :]] * inside


def shuffle_strips(images: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """RDED's ShufflePatches: permute vertical strips, then horizontal strips.

    Args:
        images: [n, H, W, 3]; H and W must be multiples of the factor.
        columns: int64 [n, factor], strip ``columns[i, k]`` of picture i goes to place k.
        rows: int64 [n, factor], the same for horizontal strips.

    Returns:
        Like ``images``. With factor 2 only 4 of the 24 arrangements of the tiles can occur, as in the paper's program.

    Raises:
        ValueError: a side is not a multiple of the factor.
    """
    count, height, width = images.shape[:3]
    factor = columns.shape[1]
    if height % factor or width % factor:
        raise ValueError(f"images: got {height}x{width} pixels, expected sides that are multiples of factor {factor}")
    row = _strip_index(rows, height // factor)
    column = _strip_index(columns, width // factor)
    picture = torch.arange(count, device=images.device)[:, None, None]
    return images[picture, row[:, :, None], column[:, None, :]]


def resized_crop(images: Tensor, boxes: Tensor, normalization: Normalization) -> Tensor:
    """Crop each uint8 picture [n, H, W, 3] by ``boxes`` int32 [n, 4], resize to H x W, normalise: float32 [n, 3, H, W].

    Boxes are (top, left, height, width). Antialiased bilinear resize in float32, channels-last output.
    """
    count, height, width = images.shape[:3]
    number = torch.arange(count, device=images.device)
    sizes = torch.tensor([height, width], dtype=torch.int32, device=images.device).repeat(count, 1)
    return multi_crop(
        images.contiguous().flatten(),
        number * (height * width * 3),
        sizes,
        boxes,
        number.int(),
        size=(height, width),
        mean=normalization.mean,
        std=normalization.std,
        channels_last=True,
    )


def cutmix(images: Tensor, partner: Tensor, box: tuple[int, int, int, int]) -> tuple[Tensor, float]:
    """Paste the same box of each picture's partner into it (Yun et al., CutMix, arXiv 1905.04899).

    Args:
        images: [n, c, H, W]; left alone.
        partner: int64 [n].
        box: (top, left, height, width) in pixels inside the picture, one for the whole batch.

    Returns:
        The mixed batch and the share of each picture's own pixels that is left, in [0, 1].
    """
    top, left, height, width = box
    mixed = images.clone()
    window = (..., slice(top, top + height), slice(left, left + width))
    mixed[window] = images[partner][window]
    return mixed, 1.0 - height * width / (images.shape[-2] * images.shape[-1])


def draw_cutmix(count: int, height: int, width: int, alpha: float, generator: torch.Generator) -> tuple[Tensor, tuple]:
    """Partners int64 [count] and one box: area share 1 - Beta(alpha, alpha), centre uniform, clipped at the border."""
    first, second = (_gamma(alpha, generator) for _ in range(2))
    cut = math.sqrt(second / max(first + second, 1e-300))
    y, x = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
    half_h, half_w = int(height * cut) // 2, int(width * cut) // 2
    top, left = max(y - half_h, 0), max(x - half_w, 0)
    bottom, right = min(y + half_h, height), min(x + half_w, width)
    return torch.randperm(count, generator=generator), (top, left, bottom - top, right - left)


def draw_crops(
    count: int,
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    attempts: int = 10,
) -> Tensor:
    """Boxes int32 [count, 4] (top, left, height, width) distributed as torchvision's RandomResizedCrop draws them.

    Area share uniform in ``scale``, aspect log-uniform in ``ratio``, up to ``attempts`` rejections, then the largest
    centred box within ``ratio``.
    """
    height, width = size
    area = height * width * torch.empty(count, attempts).uniform_(*scale, generator=generator)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = torch.exp(torch.empty(count, attempts).uniform_(low, high, generator=generator))
    w, h = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (w <= width) & (h <= height) & (w > 0) & (h > 0)
    pick = fits.int().argmax(1, keepdim=True)
    place = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    h, w = h.gather(1, pick)[:, 0], w.gather(1, pick)[:, 0]
    fallback = ~fits.any(1)
    aspect_in = min(max(width / height, ratio[0]), ratio[1])
    h = torch.where(fallback, torch.tensor(float(min(height, round(width / aspect_in)))), h)
    w = torch.where(fallback, torch.tensor(float(min(width, round(height * aspect_in)))), w)
    top, left = ((place[:, axis] * (side + 1)).floor() for axis, side in enumerate((height - h, width - w)))
    top = torch.where(fallback, ((height - h) / 2).floor(), top)
    left = torch.where(fallback, ((width - w) / 2).floor(), left)
    return torch.stack([top, left, h, w], 1).int()


def draw_permutations(count: int, n: int, generator: torch.Generator) -> Tensor:
    """``count`` independent permutations of 0 .. n-1, int64 [count, n]."""
    return torch.rand(count, n, generator=generator, dtype=torch.float64).argsort(1)


def _moved(side: int, offset: Tensor) -> tuple[Tensor, Tensor]:
    source = torch.arange(side, device=offset.device) - offset[:, None]
    return source.clamp(0, side - 1), (source >= 0) & (source < side)


def _strip_index(order: Tensor, length: int) -> Tensor:
    within = torch.arange(length, device=order.device)
    return (order[:, :, None] * length + within).flatten(1)


def _gamma(alpha: float, generator: torch.Generator) -> float:
    return float(torch._standard_gamma(torch.tensor(alpha, dtype=torch.float64), generator))
