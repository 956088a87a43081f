"""A distributional set of D3 (arXiv 2403.00999): blocks of latent priors with a decoder each, in memory and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddfast.nets.decoder import Decoder, DecoderConfig
from ddfast.store import DistilledSet
from ddfast.store.numbers import STORAGES, pack, unpack
from ddfast.train.latent import bank
from ddfast.train.latent.sizes import LATENT_ROW, BlockSize, distribution_sizes

_PART = 256  # latents that an independent ("running") decoder takes at once


@dataclass
class LatentBlock:
    """The priors of one subtask: ``latents`` float32 [n, z, 2] (mean, log-variance) and ``labels`` int64 [n] of them,
    global classes, with the ``decoder`` that all share. ``batch``: priors decoded in one call, whose pictures batch
    norm couples; None for all of the block.

    Raises:
        TypeError, ValueError: tensors of another dtype or shape, or of another decoder; NaN or infinity.
    """

    latents: Tensor
    labels: Tensor
    decoder: Decoder
    batch: int | None = None

    def __post_init__(self) -> None:
        z = self.decoder.config.latent_size
        if self.latents.ndim != 3 or self.latents.shape[1:] != (z, 2):
            raise ValueError(
                f"latents: got shape {list(self.latents.shape)}, expected [n, {z}, 2] for a {self.decoder.config.kind} "
                "decoder"
            )
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels: got {self.labels.dtype}, expected torch.int64")
        if self.labels.shape != self.latents.shape[:1]:
            raise ValueError(f"labels: got shape {list(self.labels.shape)} for {len(self.latents)} priors")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch: got {self.batch!r}, expected 1 or more, or None for all priors")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Of the latents."""
        return self.latents.device

    def decode(self, z: Tensor) -> Tensor:
        """Pictures float32 [n, 3, S, S] of latents [n, z], ``batch`` at a time, without gradients."""
        decoder = self.decoder
        independent = decoder.config.batch_norm == "running"
        part = _PART if independent else (self.batch or max(len(z), 1))
        mode = decoder.training
        decoder.train(not independent)
        try:
            with torch.no_grad():
                return torch.cat([decoder(rows) for rows in z.split(part)])
        finally:
            decoder.train(mode)

    def means(self) -> Tensor:
        """The pictures of the means, float32 [n, 3, S, S] in normalised pixels."""
        return self.decode(self.latents.detach()[:, :, 0])

    def samples(self, eps: Tensor) -> Tensor:
        """A picture of each prior, float32 [n, 3, S, S], with ``eps`` [n, z] standard normal."""
        return self.decode(bank.sample(self.latents.detach(), eps.to(self.device)))

    def grid(self, corners: tuple[int, int, int, int], steps: int = 7) -> Tensor:
        """Pictures between four priors' means: float32 [steps, steps, 3, S, S], bilinear in latent space.

        Args:
            corners: rows of the priors at top left, top right, bottom left and bottom right.
            steps: pictures a side.

        Batch norm takes the statistics of all means of the block decoded in one call, so that a corner of a block with
        ``batch`` None is its mean picture.

        Raises:
            ValueError: no such row, or fewer than two steps.
        """
        if len(corners) != 4 or not all(0 <= row < len(self) for row in corners):
            raise ValueError(f"corners: got {corners}, expected four rows from 0 to {len(self) - 1}")
        if steps < 2:
            raise ValueError(f"steps: got {steps!r}, expected 2 or more")
        means = self.latents.detach()[:, :, 0]
        share = torch.linspace(0, 1, steps, device=self.device)
        right, down = share[None, :, None], share[:, None, None]
        a, b, c, d = means[list(corners)]
        z = ((1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)).flatten(0, 1)
        if self.decoder.config.batch_norm == "running":
            pictures = self.decode(z)
        else:
            with torch.no_grad():
                pictures = self.decoder(z, statistics=self.decoder.statistics(means))
        return pictures.view(steps, steps, *pictures.shape[1:])


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
        keys = ("d3/samples", epoch) if step is None else ("d3/samples/step", epoch, step)
        pictures, first = [], 0
        for block in self.blocks:
            shape = (len(block), block.decoder.config.latent_size)
            pictures.append(block.samples(bank.noise(seed, *keys, shape=shape, first=first)))
            first += len(block)
        return torch.cat(pictures)

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
        return {"storage": storage, "blocks": blocks}

    def sizes(self, storage: str = "fp32", *, classes: int | None = None, soft_labels: int = 0) -> dict[str, Any]:
        """`distribution_sizes` of this set; ``classes`` None for those that have a prior."""
        shapes = [BlockSize(block.decoder.config, len(block)) for block in self.blocks]
        count = len(set(self.labels.tolist())) if classes is None else classes
        return distribution_sizes(shapes, count, storage=storage, soft_labels=soft_labels)

    @classmethod
    def of(cls, distilled: DistilledSet) -> Distribution | None:
        """The distribution that a set stores, on the CPU; None for a set of pictures.

        Raises:
            ValueError: a tensor or entry is missing, does not fit, or is not finite; names it.
        """
        described = distilled.manifest.get("distribution")
        if described is None:
            return None
        storage, entries = _described(described)
        rows = sum(entry["rows"] for entry in entries)
        if rows != len(distilled):
            raise ValueError(
                f"distribution: blocks have {rows} priors for {len(distilled)} labels, expected one each; "
                "copy the set anew"
            )
        blocks, first = [], 0
        for place, entry in enumerate(entries):
            labels = distilled.labels[first : first + entry["rows"]].cpu()
            blocks.append(_block(place, entry, labels, distilled, storage))
            first += entry["rows"]
        return cls(blocks)


def _described(value: Any) -> tuple[str, list[Mapping[str, Any]]]:
    if not isinstance(value, Mapping) or value.get("storage") not in STORAGES:
        raise ValueError(f"distribution: got {str(value)[:80]}, expected storage ({', '.join(STORAGES)}) and blocks")
    entries = value.get("blocks")
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"distribution: blocks: got {entries!r}, expected one entry a block")
    for place, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not {"decoder", "classes", "rows", "batch"} <= set(entry):
            raise ValueError(f"distribution: blocks[{place}]: expected decoder, classes, rows and batch")
    return value["storage"], entries


def _block(place: int, entry: Mapping[str, Any], labels: Tensor, distilled: DistilledSet, storage: str) -> LatentBlock:
    try:
        config = DecoderConfig.from_json(entry["decoder"])
    except (TypeError, ValueError) as error:
        raise ValueError(f"distribution: blocks[{place}]: {error}") from error
    resolution = list(distilled.images.shape[1:3])
    if resolution != [config.size, config.size]:
        raise ValueError(
            f"distribution: blocks[{place}]: its decoder makes pictures of {config.size} pixels, the set's have "
            f"{resolution}; take the decoder that belongs to the set"
        )
    others = sorted(set(labels.tolist()) - set(entry["classes"]))
    if others:
        raise ValueError(f"distribution: blocks[{place}]: its priors are labelled {others[:5]}, not among its classes")
    wanted = (entry["rows"], config.latent_size, 2)
    latents = _read(f"latents.{place}", distilled.extras, storage, wanted, unpack_over=LATENT_ROW)
    decoder = Decoder(config)
    state = {
        name: _read(f"decoder.{place}.{name}", distilled.extras, storage, shape)
        for name, shape in config.stored_shapes.items()
    }
    decoder.load_state_dict(state, strict=False)
    return LatentBlock(latents, labels, decoder, entry["batch"])


def _read(
    name: str,
    tensors: Mapping[str, Tensor],
    storage: str,
    shape: tuple[int, ...],
    unpack_over: tuple[int, ...] | None = None,
) -> Tensor:
    value = unpack(name, tensors, storage, over=unpack_over)
    if tuple(value.shape) != shape:
        raise ValueError(f"{name}: got shape {list(value.shape)}, expected {list(shape)} for its decoder")
    if not bool(torch.isfinite(value).all()):
        raise ValueError(f"{name}: holds NaN or infinity; copy the set anew or make it again")
    return value
