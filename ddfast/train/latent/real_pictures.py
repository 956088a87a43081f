"""The real side of D3's feature term: pictures on the device, and which of them are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddfast._types import Normalization
from ddfast.runs import seeds


@dataclass
class RealPictures:
    """A block's real pictures, on the device.

    Attributes:
        pictures: uint8 [N, S, S, 3], or as students see them float [N, 3, S, S].
        labels: int64 [N].
        normalization: of uint8 pictures.
    """

    pictures: Tensor
    labels: Tensor
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if self.pictures.dtype == torch.uint8 and self.normalization is None:
            raise ValueError("normalization: got None for uint8 pictures, expected the space's constants")
        if len(self.pictures) != len(self.labels):
            raise ValueError(f"labels: got {len(self.labels)} for {len(self.pictures)} pictures, expected one each")

    def pick(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """As students see them, [n, 3, S, S]."""
        chosen = self.pictures[rows]
        if self.normalization is None:
            return chosen.to(dtype)
        mean, std = (chosen.new_tensor(x, dtype=dtype) for x in (self.normalization.mean, self.normalization.std))
        return ((chosen.to(dtype) / 255 - mean) / std).permute(0, 3, 1, 2)


class RealDraws:
    """Random real pictures of each class, without repetition: a function of (seed, stream, iteration, class).

    Args:
        labels: int64 [N], 0 .. classes - 1.
        classes: how many.
        count: of each class in a draw; fewer where the smallest class has fewer.
        seed, stream: name the draws.

    Raises:
        ValueError: a class with fewer than two pictures.
    """

    def __init__(self, labels: Tensor, classes: int, count: int, *, seed: int, stream: str) -> None:
        self._seed, self._stream = seed, stream
        self._device = labels.device
        held = labels.cpu().numpy()
        rows = [np.flatnonzero(held == label) for label in range(classes)]
        sizes = np.array([len(each) for each in rows])
        if classes and sizes.min() < 2:
            raise ValueError(
                f"labels: class {int(sizes.argmin())} has {int(sizes.min())} real pictures, expected 2 or more (the "
                "MMD compares them with each other)"
            )
        self.count = int(min(count, sizes.min()))
        self._rows = np.zeros((classes, sizes.max()), dtype=np.int64)
        self._there = np.arange(sizes.max()) < sizes[:, None]
        for label, each in enumerate(rows):
            self._rows[label, : len(each)] = each

    def rows(self, iteration: int) -> Tensor:
        """int64 [classes, count], ascending in each class."""
        classes, places = self._there.shape
        label, place = np.arange(classes)[:, None], np.arange(places)
        bits = seeds.counter_bits(self._seed, self._stream, iteration, label, place)[..., 0]
        bits = np.where(self._there, bits >> np.uint64(1), np.uint64(2**64 - 1))
        chosen = np.sort(np.argpartition(bits, self.count - 1, axis=1)[:, : self.count], axis=1)
        return torch.from_numpy(np.take_along_axis(self._rows, chosen, axis=1)).to(self._device)
