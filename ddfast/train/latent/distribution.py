"""A distributional set of D3 (arXiv 2403.00999): blocks of latent priors with a decoder each, in memory and stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddfast.store import DistilledSet
from ddfast.store.numbers import check_storage, pack
from ddfast.train.latent.bank import noise
from ddfast.train.latent.block import LatentBlock
from ddfast.train.latent.sizes import LATENT_ROW, BlockSize, distribution_sizes
from ddfast.train.latent.stored import read_blocks

__all__ = ["Distribution", "LatentBlock"]


@dataclass
class Distribution:
    """All blocks of a set, one after the other.

    Raises:
        ValueError: no blocks, or blocks of different resolutions.
    """

    blocks: list[LatentBlock]

    def __post_init__(self) -> None:
        sides = sorted({block.decoder.config.size for block in self.blocks})
        if len(sides) != 1:
            raise ValueError(f"blocks: got pictures of {sides} pixels, expected at least one block and one resolution")

    def __len__(self) -> int:
        return sum(map(len, self.blocks))

    @property
    def labels(self) -> Tensor:
        """int64 [N], the class of each prior."""
        return torch.cat([block.labels for block in self.blocks])

    @property
    def size(self) -> int:
        """Side of the pictures in pixels."""
        return self.blocks[0].decoder.config.size

    def means(self) -> Tensor:
        """The pictures of all means, float32 [N, 3, S, S] in normalised pixels."""
        return torch.cat([block.means() for block in self.blocks])

    def samples(self, *, seed: int, epoch: int, step: int | None = None) -> Tensor:
        """A fresh picture of each prior, float32 [N, 3, S, S]: a function of (seed, epoch, step).

        Args:
            seed: of the student.
            epoch: from 0.
            step: from 0, for a draw per batch; None for one per epoch.
        """
        stream, keys = ("d3/samples", (epoch,)) if step is None else ("d3/samples/step", (epoch, step))
        pictures, first = [], 0
        for block in self.blocks:
            shape = (len(block), block.decoder.config.latent_size)
            eps = noise(seed, stream, *keys, shape=shape, first=first, device=block.device)
            pictures.append(block.samples(eps))
            first += len(block)
        return torch.cat(pictures)

    def grid(self, classes: tuple[int, int, int, int], steps: int = 7) -> Tensor:
        """`LatentBlock.grid` between the first prior of each of four classes of one block (top left, top right, bottom
        left, bottom right).

        Raises:
            ValueError: a class without a prior, or classes of different blocks, whose decoders differ.
        """
        for block in self.blocks:
            labels = block.labels.tolist()
            found = [labels.index(label) for label in classes if label in labels]
            if len(found) == len(classes) == 4:
                return block.grid((found[0], found[1], found[2], found[3]), steps)
        sharing = [sorted(set(block.labels.tolist()))[:8] for block in self.blocks]
        raise ValueError(f"classes: got {classes}, expected four of one block; the blocks begin {sharing[:8]}")

    def to(self, device: torch.device | str) -> Distribution:
        """The same on a device; decoders are moved in place."""
        return Distribution(
            [LatentBlock(b.latents.to(device), b.labels.to(device), b.decoder.to(device), b.batch) for b in self.blocks]
        )

    def tensors(self, storage: str = "fp32") -> dict[str, Tensor]:
        """For ``DistilledSet.extras``: ``latents.<block>`` and ``decoder.<block>.<name>``, see `store.numbers.pack`.

        Raises:
            ValueError: another storage, or numbers that are not finite.
        """
        found: dict[str, Tensor] = {}
        for place, block in enumerate(self.blocks):
            found |= pack(f"latents.{place}", block.latents, storage, over=LATENT_ROW)
            state = block.decoder.state_dict()
            for name in block.decoder.config.stored_shapes:
                found |= pack(f"decoder.{place}.{name}", state[name], storage)
        return found

    def as_json(self, storage: str = "fp32") -> dict[str, Any]:
        """``manifest["distribution"]``: the storage and, block by block, decoder, classes, rows and batch."""
        blocks = [
            {
                "decoder": block.decoder.config.as_json(),
                "classes": sorted(set(block.labels.tolist())),
                "rows": len(block),
                "batch": block.batch,
            }
            for block in self.blocks
        ]
        return {"storage": check_storage(storage), "blocks": blocks}

    def sizes(
        self, storage: str = "fp32", *, classes: int | None = None, soft_labels: int = 0, label_bytes: int = 4
    ) -> dict[str, Any]:
        """`distribution_sizes` of this set; ``classes`` None for those that have a prior."""
        shapes = [BlockSize(block.decoder.config, len(block)) for block in self.blocks]
        count = len(set(self.labels.tolist())) if classes is None else classes
        return distribution_sizes(shapes, count, storage=storage, soft_labels=soft_labels, label_bytes=label_bytes)

    @classmethod
    def of(cls, distilled: DistilledSet) -> Distribution | None:
        """The distribution that a set stores, on the CPU; None for a set of pictures.

        Raises:
            ValueError: a tensor or entry is missing, does not fit, or is not finite; names it.
        """
        described = distilled.manifest.get("distribution")
        if described is None:
            return None
        return cls(read_blocks(described, distilled.labels, distilled.images.shape[1:3], distilled.extras))
