"""A ready ``DataLoader`` over a distilled set: batches as students see them, flipped, moved and cropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddfast import ops
from ddfast._types import IMAGENET, Normalization

_CHARACTERS = ("mnist", "kmnist", "qmnist", "svhn")  # what names of sources that show digits or letters begin with


class BatchDataset(Dataset[tuple[Tensor, Tensor]]):
    """(image float32 [3, H, W], label) of a set that stays in memory; whole batches are made at once.

    Args:
        images: uint8 [N, H, W, 3], which are normalised, or float32 [N, 3, H, W] as students see them.
        labels: int64 [N].
        normalization: of [0, 1] pixels.
        flip: mirror half of the pictures.
        shift: move by up to so many pixels, zeros move in.
        scale: (low, high) share of the area that a random crop covers, or None for whole pictures.

    Raises:
        ValueError: crops of float images.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        normalization: Normalization,
        *,
        flip: bool = False,
        shift: int = 0,
        scale: tuple[float, float] | None = None,
    ) -> None:
        self.floats = images.is_floating_point()
        if self.floats and scale is not None:
            raise ValueError(f"scale: got {scale}, but random crops are of 8-bit pictures; give trained=False")
        self.images, self.labels, self.normalization = images, labels, normalization
        self.flip, self.shift, self.scale = flip, shift, scale
        self.targets: list[int] = labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self.__getitems__([index])
        return images[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(indices, dtype=torch.int64)
        batch = self.images[index]
        batch = batch if self.floats else batch.permute(0, 3, 1, 2)
        if self.flip:
            mirrored = torch.rand(len(batch)) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
        if self.shift:
            batch = torch.stack([self._moved(image) for image in batch])
        return batch.contiguous() if self.floats else self._crops(batch.permute(0, 2, 3, 1)), self.labels[index]

    def _moved(self, image: Tensor) -> Tensor:
        down, right = torch.randint(-self.shift, self.shift + 1, (2,)).tolist()
        moved = torch.zeros_like(image)
        height, width = image.shape[1:]
        rows, columns = slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0))
        sources = slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0))
        moved[:, rows, columns] = image[:, sources[0], sources[1]]
        return moved

    def _crops(self, batch: Tensor) -> Tensor:
        """Cut, resize to the picture's own size and normalise in one pass."""
        count, height, width = batch.shape[:3]
        boxes = torch.tensor([[0, 0, height, width]], dtype=torch.int32).repeat(count, 1)
        if self.scale is not None:
            boxes = _random_boxes(count, height, width, self.scale)
        crops: Tensor = ops.multi_crop(
            batch.contiguous().flatten(),
            torch.arange(count) * (height * width * 3),
            torch.tensor([height, width], dtype=torch.int32).repeat(count, 1),
            boxes,
            torch.arange(count, dtype=torch.int32),
            size=(height, width),
            mean=self.normalization.mean,
            std=self.normalization.std,
        )
        return crops


def make_loader(
    images: Tensor,
    labels: Tensor,
    manifest: dict[str, Any],
    normalization: Normalization | None,
    batch_size: int,
    *,
    augment: bool = True,
    shuffle: bool = True,
    **options: Any,
) -> DataLoader[tuple[Tensor, Tensor]]:
    """See `DistilledSet.dataloader`.

    Raises:
        ValueError: ``batch_size`` below 1, or an empty set.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: got {batch_size!r}, expected 1 or more")
    if len(images) == 0:
        raise ValueError("images: got an empty set, expected at least one image")
    recipe = recipe_of(manifest) if augment else {"flip": False, "shift": 0, "scale": None}
    dataset = BatchDataset(images, labels, normalization or IMAGENET, **recipe)
    return DataLoader(dataset, batch_size, shuffle=shuffle, collate_fn=_as_it_is, **options)


def recipe_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The plain part of a set's augmentation: the manifest's ``recipe`` (flip, shift, scale), else what its method
    trains with.

    A mosaic of factor f was made to be cropped: random crops cover at least 1/f of its area, as in RDED
    (arXiv 2312.03526). Digits are not mirrored, nor is a set whose recipe names augmentations (``dsa`` or ``augment``)
    without flips; of these nothing else is done here.
    """
    known = manifest.get("recipe") or {}
    factor = int((manifest.get("config") or {}).get("factor") or 1)
    digits = shows_digits(manifest)
    scale = known.get("scale", (1 / factor, 1.0) if factor > 1 else None)
    named = known.get("dsa", known.get("augment"))
    mirrored = named is None or "flip" in str(named).lower().split("_")
    return {
        "flip": bool(known.get("flip", mirrored)) and not digits,
        "shift": int(known.get("shift", 2 if digits and named is None else 0)),
        "scale": None if scale is None else (float(scale[0]), float(scale[1])),
    }


def shows_digits(manifest: Mapping[str, Any]) -> bool:
    """Whether a set's source is MNIST, one of its kin with characters, or SVHN."""
    return str((manifest.get("source") or {}).get("name", "")).lower().startswith(_CHARACTERS)


def _random_boxes(count: int, height: int, width: int, scale: tuple[float, float]) -> Tensor:
    """int32 [count, 4] as torchvision's RandomResizedCrop: ten tries each, then the whole picture."""
    area = height * width * torch.empty(count, 10).uniform_(*scale)
    aspect = torch.exp(torch.empty(count, 10).uniform_(math.log(3 / 4), math.log(4 / 3)))
    w, h = torch.round(torch.sqrt(area * aspect)), torch.round(torch.sqrt(area / aspect))
    fits = (w <= width) & (h <= height) & (w > 0) & (h > 0)
    first = fits.int().argmax(1, keepdim=True)
    none = ~fits.any(1)
    h, w = (torch.where(none, float(side), v.gather(1, first)[:, 0]) for side, v in ((height, h), (width, w)))
    top, left = (torch.floor(torch.rand(count) * (side - v + 1)) for side, v in ((height, h), (width, w)))
    return torch.stack([top, left, h, w], 1).int()


def _as_it_is(batch: Any) -> Any:
    return batch
