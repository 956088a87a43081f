"""The definition of dsa and its transpose in plain torch; see the package's docstring for the formula."""

from __future__ import annotations

import torch
from torch import Tensor

PARAMETERS = 13
BRIGHTNESS, SATURATION, CONTRAST, MAP, HIDDEN = 0, 1, 2, slice(3, 9), slice(9, 13)


def compute_dtype(images: Tensor) -> torch.dtype:
    """What images of this type are computed in."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


def dsa(images: Tensor, params: Tensor, addend: bool) -> Tensor:
    """[n, c, H, W] of images' type and layout; without the addend the op's linear part."""
    x, p = _ready(images, params)
    moved = _sampled(_coloured(x, p, addend), p)
    return torch.empty_like(images).copy_(moved.masked_fill_(_hidden(p, images), 0))


def dsa_adjoint(gradient: Tensor, params: Tensor) -> Tensor:
    """The transpose of the linear part: the change of colour is symmetric, the sampling becomes a scattering."""
    g, p = _ready(gradient, params)
    spread = _scattered(g.masked_fill(_hidden(p, gradient), 0), p)
    return torch.empty_like(gradient).copy_(_coloured(spread, p, False))


def _ready(images: Tensor, params: Tensor) -> tuple[Tensor, Tensor]:
    work = compute_dtype(images)
    return images.to(work), params.to(work).expand(len(images), -1)


def _coloured(x: Tensor, p: Tensor, addend: bool) -> Tensor:
    """The mean of a picture after brightness and saturation is that before plus the addend."""
    brightness, saturation, contrast = (p[:, k, None, None, None] for k in (BRIGHTNESS, SATURATION, CONTRAST))
    constant = (1 - contrast) * x.mean((1, 2, 3), keepdim=True)
    if addend:
        constant = constant + brightness
    return contrast * saturation * x + contrast * (1 - saturation) * x.mean(1, keepdim=True) + constant


def _hidden(p: Tensor, images: Tensor) -> Tensor:
    top, bottom, left, right = p[:, HIDDEN, None].unbind(1)
    row, column = (torch.arange(side, device=p.device) for side in images.shape[2:])
    inside = ((row >= top) & (row < bottom))[:, :, None] & ((column >= left) & (column < right))[:, None, :]
    return inside[:, None]


def _sampled(x: Tensor, p: Tensor) -> Tensor:
    n, c, h, w = x.shape
    place, weight = _taps(p, h, w)
    taps = x.flatten(2).gather(2, place[:, None].expand(n, c, -1)) * weight[:, None]
    return taps.view(n, c, 4, h, w).sum(2)


def _scattered(g: Tensor, p: Tensor) -> Tensor:
    n, c, h, w = g.shape
    place, weight = _taps(p, h, w)
    taps = g.flatten(2).repeat(1, 1, 4) * weight[:, None]
    return torch.zeros_like(taps[..., : h * w]).scatter_add_(2, place[:, None].expand(n, c, -1), taps).view(g.shape)


def _taps(p: Tensor, h: int, w: int) -> tuple[Tensor, Tensor]:
    """The four neighbours of each pixel's source, int64 [n, 4 h w] and their weights, 0 outside the picture."""
    row, column = (torch.arange(side, device=p.device, dtype=p.dtype) for side in (h, w))
    m = p[:, MAP, None, None]
    y, x = (m[:, k] * row[:, None] + m[:, k + 1] * column + m[:, k + 2] for k in (0, 3))
    rows, columns = _axis(y, h), _axis(x, w)
    places = [i * w + j for i, _ in rows for j, _ in columns]
    weights = [u * v for _, u in rows for _, v in columns]
    return torch.stack(places, 1).flatten(1), torch.stack(weights, 1).flatten(1)


def _axis(at: Tensor, side: int) -> list[tuple[Tensor, Tensor]]:
    """Lower and upper neighbour with weights; at -1 and at ``side`` both weights in the picture are 0."""
    at = at.clamp(-1, side)
    low = at.floor()
    share = at - low
    found = []
    for place, weight in ((low, 1 - share), (low + 1, share)):
        inside = (place >= 0) & (place < side)
        found.append((place.clamp(0, side - 1).long(), torch.where(inside, weight, 0)))
    return found
