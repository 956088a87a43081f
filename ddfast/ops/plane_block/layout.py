"""Empty results of plane_block's ops: planes channels-last, statistics row by row."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast.ops.plane_block.reference import compute_dtype


def statistic(a: Tensor) -> Tensor:
    """One number a plane of a [N, C, H, W]."""
    return torch.empty(a.shape[:2], dtype=compute_dtype(a), device=a.device)


def planes(a: Tensor, dtype: torch.dtype) -> Tensor:
    """Of a's shape."""
    return torch.empty(a.shape, dtype=dtype, device=a.device, memory_format=torch.channels_last)


def pooled(a: Tensor, pool: bool, dtype: torch.dtype) -> Tensor:
    """Of the shape after the pool."""
    n, c, h, w = a.shape
    size = (n, c, h // 2, w // 2) if pool else (n, c, h, w)
    return torch.empty(size, dtype=dtype, device=a.device, memory_format=torch.channels_last)
