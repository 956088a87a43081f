"""Latent priors of D3 (arXiv 2403.00999): a diagonal Gaussian is a mean and a log-variance."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ddfast.runs import seeds


def initial_latents(classes: int, lpc: int, z: int, *, seed: int, stream: str) -> Tensor:
    """Fresh priors, float32 [classes * lpc, z, 2], class by class; means and log-variances are all drawn from N(0, 1).

    Args:
        classes: of the block.
        lpc: priors per class.
        z: length of a latent.
        seed, stream: name the draw.

    Raises:
        ValueError: a count below 1.
    """
    for name, value in (("classes", classes), ("lpc", lpc), ("z", z)):
        if value < 1:
            raise ValueError(f"{name}: got {value!r}, expected 1 or more")
    return noise(seed, stream, shape=(classes * lpc, z, 2))


def noise(seed: int, stream: str, *keys: int, shape: tuple[int, ...], first: int = 0) -> Tensor:
    """float32 [shape], standard normal: row r is a function of (seed, stream, keys, first + r) alone.

    Args:
        seed, stream: name the draw.
        keys: at most two more, such as (epoch, step).
        shape: of the result, at least one axis; the first is the rows.
        first: number of the first row.

    Raises:
        ValueError: too many keys, or one out of range.
    """
    if not shape or len(keys) > seeds.MAX_KEYS - 1:
        raise ValueError(f"keys, shape: got {keys} and {shape}, expected at most two keys and one axis or more")
    each = math.prod(shape[1:])
    rows = np.arange(first, first + shape[0], dtype=np.int64)
    words = seeds.counter_words(seed, stream, *keys, rows, words=each + each % 2).astype(np.float64)
    radius = np.sqrt(-2 * np.log((words[:, 0::2] + 1) * 2.0**-32))
    angle = words[:, 1::2] * (2 * math.pi * 2.0**-32)
    normals = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).reshape(shape[0], -1)
    return torch.from_numpy(normals[:, :each].astype(np.float32)).reshape(shape)


def sample(latents: Tensor, eps: Tensor) -> Tensor:
    """mean + exp(log-variance / 2) * eps, differentiable: [n, z] of latents [n, z, 2] and eps [n, z].

    Raises:
        ValueError: shapes that do not fit.
    """
    if latents.ndim != 3 or latents.shape[2] != 2 or eps.shape != latents.shape[:2]:
        raise ValueError(
            f"latents, eps: got shapes {list(latents.shape)} and {list(eps.shape)}, expected [n, z, 2] and [n, z]"
        )
    mean, log_variance = latents.unbind(2)
    return mean + torch.exp(log_variance / 2) * eps
