"""A tiny distribution for tests: two blocks of four classes each, decoders of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.store import DistilledSet
from ddfast.train.latent import Distribution, LatentBlock, initial_latents

CLASSES, LPC = 4, 2


def tiny_block(place: int = 0, *, batch: int | None = None, kind: str = "small", **options: object) -> LatentBlock:
    """Priors of classes 4 * place to 4 * place + 3, two each, for 16 x 16 pictures."""
    config = DecoderConfig(kind, 16, kernels=8, **options)
    latents = initial_latents(CLASSES, LPC, config.latent_size, seed=1, stream=f"test/{place}")
    labels = torch.arange(CLASSES).repeat_interleave(LPC) + CLASSES * place
    return LatentBlock(latents, labels, make_decoder(config, 1, f"test/{place}"), batch)


def tiny_distribution(**options: object) -> Distribution:
    """Two blocks, a small and a medium decoder."""
    return Distribution([tiny_block(0, **options), tiny_block(1, kind="medium", **options)])


def stored(distribution: Distribution, storage: str = "fp32", **extras: Tensor) -> DistilledSet:
    """The set that a run writes, with black pictures."""
    side, labels = distribution.size, distribution.labels
    return DistilledSet(
        torch.zeros(len(labels), side, side, 3, dtype=torch.uint8),
        labels,
        tuple(f"class {label}" for label in range(8)),
        {"distribution": distribution.as_json(storage)},
        {**distribution.tensors(storage), **extras},
    )
