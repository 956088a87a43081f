"""Counter-based normal numbers on any device: `ddfast.runs.seeds`' Philox4x32-10 and the Box-Muller transform.

A row of normals takes the draw's words four at a time, one block (Philox counter) each; words (u, v) give two normals,
``sqrt(-2 ln((u + 1) / 2**32))`` times cosine and sine of ``2 pi v / 2**32``, in float64. The words are the same on
every device, the normals to within float64's rounding.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ddfast.runs import seeds

_PART = 1 << 22  # words at once: bounds the memory of the float64 numbers in between
_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def normal_rows(
    seed: int, stream: str, keys: tuple[int, ...], first: int, rows: int, columns: int, device: torch.device
) -> Tensor:
    """float32 [rows, columns]: row r is a function of (seed, stream, keys, first + r) alone.

    Raises:
        TypeError, ValueError: as `seeds.counter_words`.
    """
    result = torch.empty(rows, columns, dtype=torch.float32, device=device)
    blocks = -(-columns // 4)
    each = max(1, _PART // max(4 * blocks, 1))
    for start in range(0, rows, each):
        part = result[start : start + each]
        numbers = np.arange(first + start, first + start + len(part), dtype=np.int64)
        if device.type == "cpu":
            words = torch.from_numpy(seeds.counter_words(seed, stream, *keys, numbers, words=4 * blocks).astype(float))
        else:
            words = philox_words(seed, stream, keys, int(numbers[0]), len(part), blocks, device).double()
        part.copy_(_box_muller(words)[:, :columns])
    return result


def philox_words(
    seed: int, stream: str, keys: tuple[int, ...], first: int, rows: int, blocks: int, device: torch.device
) -> Tensor:
    """int64 [rows, 4 * blocks], the words of `seeds.counter_words` with keys (*keys, row), computed on ``device``.

    A product of two 32-bit numbers wraps in int64, but its 64 bits are those of the unsigned product.
    """
    low, high = seeds.stream_key(seed, stream)
    lanes: list[Tensor] = [torch.full((1, 1), key, dtype=torch.int64, device=device) for key in keys]
    lanes.append(torch.arange(first, first + rows, dtype=torch.int64, device=device)[:, None])
    lanes += [torch.zeros(1, 1, dtype=torch.int64, device=device)] * (3 - len(lanes))
    lanes.append(torch.arange(blocks, dtype=torch.int64, device=device)[None])
    c0, c1, c2, c3 = lanes
    for turn in range(10):
        k0, k1 = (low + turn * _WEYL[0]) & _LOW, (high + turn * _WEYL[1]) & _LOW
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
    return torch.stack(torch.broadcast_tensors(c0, c1, c2, c3), -1).flatten(1)


def _box_muller(words: Tensor) -> Tensor:
    """float64 normals of float64 words [n, even], pair by pair."""
    radius = ((words[:, 0::2] + 1) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = words[:, 1::2] * (2 * math.pi * 2.0**-32)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(1)
