"""D3's feature term: the MMD between features of sampled and of real pictures, class by class, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast import ops
from ddfast._types import Normalization
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import seeds
from ddfast.train.adjoint.embedding import make_embedding

# Pictures whose activations are alive at a time; on a CPU larger parts are no faster.
PART = {"cpu": 32}
_PART = 2048


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


@dataclass(frozen=True)
class FeatureMatch:
    """``loss`` is the sum of the classes' MMDs (a scalar tensor), ``pictures`` its gradient."""

    loss: Tensor
    pictures: Tensor


class FeatureTerm:
    """Sum over classes of the unbiased squared MMD between features of sampled and of real pictures.

    Features are the flattened output of the last block of a ConvNet, the kernel a sum of Gaussians. Some classes are
    worked on at a time, and no more than ``chunk`` pictures have activations at a time; with batch norm, whose
    statistics are those of a class, a class is taken whole.

    Args:
        net: the architecture.
        classes: 0 .. classes - 1.
        lpc: priors of each.
        bandwidths: of the kernel; None for the median heuristic, class by class.
        chunk: None for 32 on a CPU and 2048 on a GPU.
        precision: of the convolutions.

    Raises:
        ValueError: an architecture other than a ConvNet, or a precision that it does not offer.
    """

    def __init__(
        self, net: FlatConvNet, classes: int, lpc: int, *, bandwidths: Sequence[float] | None = ops.MMD_BANDWIDTHS,
        chunk: int | None = None, precision: str = "fp32",
    ) -> None:  # fmt: skip
        if not isinstance(net, FlatConvNet):
            raise ValueError(f"net: got {net}, expected a ConvNet")
        self.classes, self.lpc, self.chunk, self.bandwidths = classes, lpc, chunk, bandwidths
        self.embedding = make_embedding(net, precision)
        self.whole = net.norm == "batch"

    @torch.no_grad()
    def __call__(self, theta: Tensor, pictures: Tensor, real: RealPictures, rows: Tensor) -> FeatureMatch:
        """The loss and its gradient.

        Args:
            theta: of the network.
            pictures: [draws * classes * lpc, 3, S, S], draw by draw, class by class.
            real: what ``rows`` int64 [classes, m] point into.
        """
        # [classes, draws, lpc, 3, S, S]: views, so that a group's gradient lands where its pictures were
        grid = pictures.unflatten(0, (-1, self.classes, self.lpc)).transpose(0, 1)
        gradient = torch.empty_like(pictures)
        places = gradient.unflatten(0, (-1, self.classes, self.lpc)).transpose(0, 1)
        loss = pictures.new_zeros(())
        chunk = self.chunk or PART.get(pictures.device.type, _PART)
        group = 1 if self.whole else max(1, chunk // (grid.shape[1] * self.lpc))
        for x, out, chosen in zip(grid.split(group), places.split(group), rows.split(group), strict=True):
            part, found = self._group(theta, x.flatten(0, 2), real.pick(chosen.flatten(), x.dtype), len(x), chunk)
            loss += part
            out.copy_(found.view(out.shape))
        return FeatureMatch(loss, gradient)

    def _group(self, theta: Tensor, x: Tensor, y: Tensor, classes: int, chunk: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient [n, 3, S, S] of some classes' pictures."""
        size = len(x) if self.whole else chunk
        parts, first = x.split(size), self.embedding.first
        tape: Any = None
        features = []
        for part in parts:
            part_features, tape = first(theta, part, tape=len(parts) == 1)
            features.append(part_features)
        loss, pull = self._mmd(torch.cat(features).unflatten(0, (classes, -1)), self._real(theta, y, classes, chunk))
        found = []
        for part, g in zip(parts, pull.flatten(0, 1).split(size), strict=True):
            if len(parts) > 1:  # a class of more than a chunk: its activations are made again
                tape = first(theta, part)[1]
            found.append(self.embedding.images(theta, g, tape))
        return loss, torch.cat(found)

    def _real(self, theta: Tensor, y: Tensor, classes: int, chunk: int) -> Tensor:
        """Features [classes, m, d] of real pictures."""
        parts = y.split(len(y) if self.whole else chunk)
        features = [self.embedding.first(theta, part, tape=False)[0] for part in parts]
        return torch.cat(features).unflatten(0, (classes, -1))

    def _mmd(self, features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and its gradient in the features [C, n, d]."""
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            sigmas = ops.mmd_median(features, real) if self.bandwidths is None else features.new_tensor(self.bandwidths)
            # the only sample of a class has no pair to compare
            loss = ops.mmd(leaf, real, sigmas, unbiased=leaf.shape[1] > 1).sum()
            (pull,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), pull
