"""What a distributional set costs: numbers and bytes of latents, decoders and soft labels (arXiv 2403.00999)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ddfast.nets.decoder import DecoderConfig
from ddfast.store.numbers import packed_bytes

LATENT_ROW = (1,)  # the axis of one int8 row of latents [n, z, 2]: means and log-variances have scales of their own


@dataclass(frozen=True)
class BlockSize:
    """One block: its decoder and how many priors it has."""

    decoder: DecoderConfig
    rows: int


def distribution_sizes(
    blocks: Sequence[BlockSize], classes: int, *, storage: str = "fp32", soft_labels: int = 0, label_bytes: int = 4
) -> dict[str, Any]:
    """Numbers and bytes of a set of blocks, from configurations and counts alone.

    Numbers count trained parameters and priors; one picture has 3 S^2 of them, and ``ipc_equivalent`` is numbers per
    class over that, as the paper counts its budgets (with soft labels). Bytes are those of the stored tensors, with
    int8's scales and a decoder's running statistics, without file headers.

    Args:
        blocks: the blocks.
        classes: of the whole set.
        storage: "fp32", "fp16" or "int8", of latents and decoders.
        soft_labels: columns of the soft labels, one row a prior; 0 for hard labels, which cost nothing.
        label_bytes: per soft-label number.

    Returns:
        ``latents``, ``decoders``, ``soft_labels`` and ``total``, each {numbers, bytes}; ``priors``; ``classes``;
        ``picture_numbers``; ``ipc_equivalent`` {total, without_labels}; ``bits_per_class``; ``storage``.

    Raises:
        ValueError: no blocks, no classes, blocks of different resolutions or another storage.
    """
    sides = sorted({block.decoder.size for block in blocks})
    if len(sides) != 1:
        raise ValueError(f"blocks: got decoders for {sides} pixels, expected at least one block and one resolution")
    if classes < 1:
        raise ValueError(f"classes: got {classes!r}, expected 1 or more")
    rows = sum(block.rows for block in blocks)
    parts = {
        "latents": _sum(_latents(block, storage) for block in blocks),
        "decoders": _sum(_decoder(block.decoder, storage) for block in blocks),
        "soft_labels": (rows * soft_labels, rows * soft_labels * label_bytes),
    }
    numbers, size = _sum(parts.values())
    picture = 3 * sides[0] ** 2
    return {
        **{name: {"numbers": count, "bytes": weight} for name, (count, weight) in parts.items()},
        "total": {"numbers": numbers, "bytes": size},
        "priors": rows,
        "classes": classes,
        "picture_numbers": picture,
        "ipc_equivalent": {
            "total": numbers / (classes * picture),
            "without_labels": (numbers - parts["soft_labels"][0]) / (classes * picture),
        },
        "bits_per_class": 8 * size / classes,
        "storage": storage,
    }


def _latents(block: BlockSize, storage: str) -> tuple[int, int]:
    shape = (block.rows, block.decoder.latent_size, 2)
    return shape[0] * shape[1] * 2, packed_bytes(shape, storage, over=LATENT_ROW)


def _decoder(config: DecoderConfig, storage: str) -> tuple[int, int]:
    size = sum(packed_bytes(shape, storage) for shape in config.stored_shapes.values())
    return config.parameters, size


def _sum(pairs: Any) -> tuple[int, int]:
    numbers = size = 0
    for count, weight in pairs:
        numbers, size = numbers + count, size + weight
    return numbers, size
