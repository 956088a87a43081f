"""Parameters of every kind, and the definition of dsa by torch's own layers, for its tests on CPU and in Triton."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

IDENTITY = (0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0)
KINDS = (
    "identity", "crop", "flipped crop", "out of sight", "colour", "cutout", "scale", "rotate", "all", "shrink", "point",
    "quarter turn", "colour, flip and cutout", "contrast on a crop", "cutout where the crop is empty",
)  # fmt: skip


def params(height: int, width: int, kinds: tuple[str, ...] = KINDS) -> Tensor:
    """One row a kind, float64 [len(kinds), 13]."""
    rows = []
    for kind in kinds:
        row = list(IDENTITY)
        if kind in ("colour", "all", "shrink", "colour, flip and cutout"):
            row[:3] = [0.3, 1.7, 0.6]
        if kind == "contrast on a crop":
            row[:3] = [-0.2, 1.0, 1.4]
        if kind in ("crop", "contrast on a crop"):
            row[5], row[8] = 2.0, -1.0
        if kind == "cutout where the crop is empty":
            row[8] = 3.0
            row[9:] = [0, height, width - 2, width]
        if kind in ("flipped crop", "colour, flip and cutout"):
            row[5], row[7], row[8] = -1.0, -1.0, width - 2.0
        if kind == "out of sight":
            row[8] = width + 0.5
        if kind == "point":  # every pixel shows one place, between pixels
            row[3], row[5], row[7], row[8] = 0.0, (height - 1) / 3, 0.0, width / 3
        if kind == "quarter turn":
            row[3:9] = [0.0, 1.0, 0.0, -1.0, 0.0, width - 1.0]
        angle, factor = {"scale": (0.0, 1 / 1.2), "rotate": (0.26, 1.0), "all": (-0.2, 1.1), "shrink": (0.1, 2.6)}.get(
            kind, (0.0, 0.0)
        )
        if factor:
            centre = ((height - 1) / 2, (width - 1) / 2)
            cos, sin = factor * math.cos(angle), factor * math.sin(angle)
            row[3:6] = [cos, sin, centre[0] - cos * centre[0] - sin * centre[1]]
            row[6:9] = [-sin, cos, centre[1] + sin * centre[0] - cos * centre[1]]
        if kind in ("cutout", "all", "colour, flip and cutout"):
            row[9:] = [height // 3, height // 3 + max(height // 2, 1), 0, max(width // 2, 1)]
        rows.append(row)
    return torch.tensor(rows, dtype=torch.float64)


def by_layers(x: Tensor, p: Tensor, addend: bool = True) -> Tensor:
    """Brightness, saturation, contrast, grid_sample, zeros, one after the other."""
    n, _, h, w = x.shape
    p = p.to(x).expand(n, -1)
    b, s, k = (p[:, i, None, None, None] for i in range(3))
    x = x + b if addend else x
    grey = x.mean(1, keepdim=True)
    x = (x - grey) * s + grey
    mean = x.mean((1, 2, 3), keepdim=True)
    x = (x - mean) * k + mean
    y, z = torch.arange(h).to(x)[:, None], torch.arange(w).to(x)
    rows, columns = (p[:, i, None, None] * y + p[:, i + 1, None, None] * z + p[:, i + 2, None, None] for i in (3, 6))
    x = F.grid_sample(x, torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], 3), align_corners=False)
    top, bottom, left, right = (p[:, i, None, None] for i in range(9, 13))
    return torch.where(((y >= top) & (y < bottom) & (z >= left) & (z < right))[:, None], 0, x)


def transposed(g: Tensor, p: Tensor) -> Tensor:
    """Of `by_layers`, by autograd."""
    x = torch.zeros_like(g).requires_grad_()
    return torch.autograd.grad(by_layers(x, p), x, g)[0]


def pictures(n: int, c: int, h: int, w: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normalised pictures with a mean."""
    return (torch.randn(n, c, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.4).to(dtype)


def surrounded(x: Tensor, layout: str) -> Tensor:
    """``x`` in memory of some layout, NaN wherever a read must not go."""
    n, c, h, w = x.shape
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "contiguous":
        return x.contiguous()
    if layout == "transposed":
        return x.transpose(2, 3).contiguous().transpose(2, 3)
    store = torch.full((n + 1, c + 2, h + 2, 2 * w + 3), float("nan"), dtype=x.dtype)
    view = store[:n, 1 : c + 1, 1 : h + 1, 1 : 2 * w + 1 : 2]
    return view.copy_(x)


LAYOUTS = ("contiguous", "channels_last", "transposed", "gaps")
