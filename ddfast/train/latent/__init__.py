"""Latent priors and their decoders: the distributional sets of D3 (arXiv 2403.00999)."""

from __future__ import annotations

from ddfast.train.latent.bank import initial_latents, noise, sample
from ddfast.train.latent.distribution import Distribution, LatentBlock
from ddfast.train.latent.pictures import materialised
from ddfast.train.latent.sizes import BlockSize, distribution_sizes

__all__ = [
    "BlockSize",
    "Distribution",
    "LatentBlock",
    "distribution_sizes",
    "initial_latents",
    "materialised",
    "noise",
    "sample",
]
