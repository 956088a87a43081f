"""Points, and mmd as its formula has it: the mean of kernels of differences, pair by pair."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMAS = (0.5, 2.0, 5.0)
# classes, points, points, features: odd sizes, one feature, one pair, more points than a tile holds
SHAPES = [(3, 4, 5, 7), (2, 2, 2, 1), (1, 30, 30, 67), (2, 33, 18, 130), (4, 3, 17, 16), (1, 70, 35, 5)]


def points(classes: int, n: int, m: int, d: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """With distances of the order of the bandwidths."""
    generator = torch.Generator().manual_seed(classes + n + m + d)
    x, y = (torch.randn(classes, k, d, generator=generator, dtype=torch.float64) for k in (n, m))
    return (x * (3 / d**0.5)).to(dtype), (y * (4 / d**0.5) + 0.5 / d**0.5).to(dtype)


def kernel(a: Tensor, b: Tensor, sigmas: Tensor) -> Tensor:
    """[C, p, q] of points [C, p, d] and [C, q, d] with bandwidths [C, k]."""
    squares = (a[:, :, None] - b[:, None]).square().sum(3)
    return torch.exp(-squares[..., None] / (2 * sigmas[:, None, None] ** 2)).sum(3)


def by_pairs(x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool = True, real_term: bool = True) -> Tensor:
    """The definition, in the type of its arguments."""
    total = -2 * kernel(x, y, sigmas).mean((1, 2))
    for a in (x, y) if real_term else (x,):
        own, k = kernel(a, a, sigmas), a.shape[1]
        if unbiased:
            own = own * (1 - torch.eye(k, dtype=own.dtype)) * (k / (k - 1))
        total = total + own.mean((1, 2))
    return total
