"""Test pictures, streamed in batches: never more than a few batches are decoded in memory."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast._temporary import temporary_name
from ddfast._types import Normalization
from ddfast.data import DecodeError, Source, decode_image
from ddfast.data.arrays import ArraySource
from ddfast.nets.classes import match_classes
from ddfast.runs import atomic_write_bytes
from ddfast.train import predict
from ddfast.train.data_parallel import Group

CACHE_FILE = "validation.u8"
_AHEAD = 3


@dataclass(frozen=True)
class Validation:
    """Test pictures of the set's classes.

    ``targets[c]`` is the source's label of class c; ``per_class`` limits the pictures of a class to the first ones;
    ``cropped`` says that pictures are resized to ``size // 7 * 8`` and centre-cropped (photographs); pictures that are
    arrays already are only resized, and left alone when they fit. ``cache`` is a folder that holds the prepared
    pictures of all classes in a memory-mapped file. ``only`` these classes are tested; None for all.
    """

    source: Source
    targets: tuple[int, ...]
    size: int
    per_class: int | None = None
    cropped: bool = True
    cache: str | None = None
    only: tuple[int, ...] | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """Pictures of each class that are tested."""
        found = (self.source.count(label) for label in self.targets)
        limited = (n if self.per_class is None else min(n, self.per_class) for n in found)
        return tuple(n if self.only is None or place in self.only else 0 for place, n in enumerate(limited))

    @property
    def cached(self) -> bool:
        """Whether the prepared pictures are there."""
        return self.cache is not None and (Path(self.cache) / CACHE_FILE).exists()

    def batches(
        self, batch_size: int = 250, workers: int = 0, part: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Prepared pictures uint8 [n, size, size, 3] and classes int64 [n], class by class; unreadable ones left out.

        Args:
            batch_size: pictures of a batch.
            workers: decoding threads that work ahead; 0 decodes in the caller's thread.
            part: (i, n) for the batches i, i + n, i + 2 n ... alone.
        """
        if self.cache is not None and self.cached:
            yield from _cached(Path(self.cache), self.size, batch_size, self.only, part)
            return
        jobs = islice(self._jobs(batch_size), part[0], None, part[1])
        if workers == 0:
            yield from (made for made in map(self._load, jobs) if len(made[1]))
            return
        with ThreadPoolExecutor(workers) as pool:
            pending: deque[Future[tuple[Tensor, Tensor]]] = deque()
            for job in jobs:
                pending.append(pool.submit(self._load, job))
                if len(pending) > workers + _AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

    def rule(self) -> str:
        """How a picture is made ready, in words."""
        if self.cropped:
            return f"short side to {resized_side(self.size)} px, centre {self.size} x {self.size}"
        return f"whole picture at {self.size} x {self.size}"

    def _jobs(self, batch_size: int) -> Iterator[list[tuple[int, int]]]:
        batch: list[tuple[int, int]] = []
        for place, count in enumerate(self.counts):
            for position in range(count):
                batch.append((place, position))
                if len(batch) == batch_size:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _load(self, job: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        images, labels = [], []
        for place, position in job:
            label = self.targets[place]
            try:
                data = self.source.load(label, position)
                pixels = decode_image(data, self.source.sample_id(label, position))
            except DecodeError:
                continue
            images.append(prepare(pixels, self.size, cropped=self.cropped))
            labels.append(place)
        stacked = torch.stack(images) if images else torch.empty(0, self.size, self.size, 3, dtype=torch.uint8)
        return stacked, torch.tensor(labels, dtype=torch.int64)


def open_validation(source: Source, class_names: Sequence[str], size: int, per_class: int | None) -> Validation:
    """The test pictures of the set's classes, matched by name.

    Raises:
        ValueError: classes of the set that the source does not have, or that are without pictures.
    """
    targets = match_classes(class_names, source.class_names, f"validation {source.name}")
    found = Validation(source, targets, size, per_class, cropped=not isinstance(source, ArraySource))
    empty = [class_names[place] for place, count in enumerate(found.counts) if count == 0]
    if empty:
        raise ValueError(f"validation {source.name}: no pictures of {len(empty)} classes: {', '.join(empty[:5])}")
    return found


def resized_side(size: int) -> int:
    """Short side before the centre crop: ``size // 7 * 8``, 256 for 224, but never below ``size``."""
    return max(size // 7 * 8, size)


def prepare(pixels: NDArray[np.uint8], size: int, *, cropped: bool) -> Tensor:
    """One test picture uint8 [H, W, 3] as uint8 [size, size, 3].

    Args:
        pixels: the picture.
        size: side in pixels.
        cropped: resize the short side to ``size // 7 * 8`` and take the centre (RDED's evaluation); else take the
            largest centred square and resize it to ``size``. Antialiased bilinear, as torchvision's Resize.
    """
    image = torch.from_numpy(np.ascontiguousarray(pixels))
    if not cropped:
        side = min(image.shape[:2])
        return _resize(_centre(image, side), size, size)
    short = resized_side(size)
    height, width = image.shape[:2]
    # torchvision truncates the long side
    tall, wide = (short, short * width // height) if height <= width else (short * height // width, short)
    return _centre(_resize(image, tall, wide), size)


@torch.no_grad()
def confusion(
    model: nn.Module,
    validation: Validation,
    normalization: Normalization,
    classes: int,
    workers: int = 0,
    group: Group | None = None,
) -> Tensor:
    """Predictions counted: int64 [classes, classes], row = true class, column = predicted; the ranks of a group take
    turns with the batches, and each gets all counts."""
    counts = torch.zeros(classes * classes, dtype=torch.int64)
    if group is not None:  # pictures that cannot be read are missing in prepared batches
        group.same("test pictures: prepared", int(validation.cached))
    part = (0, 1) if group is None else (group.rank, group.count)
    for images, labels in validation.batches(workers=workers, part=part):
        if len(labels):
            guess = predict(model, images, normalization=normalization).argmax(1)
            counts += torch.bincount(labels * classes + guess.clamp(max=classes - 1), minlength=classes * classes)
    return (counts if group is None else group.add(counts)).view(classes, classes)


def write_cache(validation: Validation, folder: Path, workers: int) -> int:
    """Prepares all pictures once into a memory-mapped file in ``folder``; returns how many could not be read."""
    temporary = folder / temporary_name(CACHE_FILE)  # others may be writing it too
    labels: list[int] = []
    with temporary.open("wb") as file:
        for images, part in validation.batches(workers=workers):
            file.write(images.contiguous().numpy().tobytes())
            labels += part.tolist()
    atomic_write_bytes(folder / f"{CACHE_FILE}.json", json.dumps(labels).encode())
    os.replace(temporary, folder / CACHE_FILE)
    return sum(validation.counts) - len(labels)


def drop_cache(folder: Path) -> None:
    """Removes what `write_cache` made."""
    for name in (CACHE_FILE, f"{CACHE_FILE}.json"):
        (folder / name).unlink(missing_ok=True)


def _cached(
    folder: Path, size: int, batch_size: int, only: tuple[int, ...] | None, part: tuple[int, int]
) -> Iterator[tuple[Tensor, Tensor]]:
    labels = torch.tensor(json.loads((folder / f"{CACHE_FILE}.json").read_bytes()), dtype=torch.int64)
    pictures = np.memmap(folder / CACHE_FILE, dtype=np.uint8, mode="r", shape=(len(labels), size, size, 3))
    rows = torch.arange(len(labels)) if only is None else torch.isin(labels, torch.tensor(only)).nonzero()[:, 0]
    for batch in rows.split(batch_size)[part[0] :: part[1]]:
        # copied out of the file batch by batch; the system may drop its pages at any time
        yield torch.from_numpy(pictures[batch.numpy()]), labels[batch]


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[:2] == (height, width):
        return image
    planes = image.permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0).contiguous()


def _centre(image: Tensor, side: int) -> Tensor:
    # torchvision's CenterCrop rounds half to even
    top, left = (round((extent - side) / 2.0) for extent in image.shape[:2])
    return image[top : top + side, left : left + side]
