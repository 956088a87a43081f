"""Latent priors of D3 (arXiv 2403.00999): a diagonal Gaussian is a mean and a log-variance."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ddfast.runs import seeds
from ddfast.train.latent.normals import normal_rows


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


def noise(
    seed: int,
    stream: str,
    *keys: int,
    shape: tuple[int, ...],
    first: int = 0,
    device: torch.device | str = "cpu",
) -> Tensor:
    """float32 [shape], standard normal: row r is a function of (seed, stream, keys, first + r) alone.

    Numbers are made where they are used; a GPU's and the CPU's agree to float32's last bit, mostly exactly.

    Args:
        seed, stream: name the draw.
        keys: at most two more, such as (epoch, step), each in [0, 2**32).
        shape: of the result, at least one axis; the first is the rows.
        first: number of the first row.
        device: where the result lies.

    Raises:
        TypeError, ValueError: too many keys, or one out of range.
    """
    if not shape or len(keys) > seeds.MAX_KEYS - 1:
        raise ValueError(f"keys, shape: got {keys} and {shape}, expected at most two keys and one axis or more")
    if first < 0:
        raise ValueError(f"first: got {first!r}, expected 0 or more")
    flat = normal_rows(seed, stream, keys, first, shape[0], math.prod(shape[1:]), torch.device(device))
    return flat.view(shape)


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
