"""D3's feature term: the MMD between features of sampled and of real pictures, class by class, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ddfast import ops
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint.embedding import make_embedding
from ddfast.train.latent.real_pictures import RealPictures
from ddfast.train.matching.images import pictures_at_once


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
        chunk: None for 64 on a CPU and 2048 on a GPU, there fewer of pictures larger than 32 x 32.
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
        self.size = net.input_size

    @torch.no_grad()
    def __call__(
        self, theta: Tensor, pictures: Tensor, real: RealPictures, rows: Tensor, known: Tensor | None = None
    ) -> FeatureMatch:
        """The loss and its gradient.

        Args:
            theta: of the network.
            pictures: [draws * classes * lpc, 3, S, S], draw by draw, class by class.
            real: what ``rows`` int64 [classes, m] point into.
            known: features [N, d] of all real pictures under theta, where there are any.
        """
        # [classes, draws, lpc, 3, S, S]: views, so that a group's gradient lands where its pictures were
        grid = pictures.unflatten(0, (-1, self.classes, self.lpc)).transpose(0, 1)
        gradient = torch.empty_like(pictures)
        places = gradient.unflatten(0, (-1, self.classes, self.lpc)).transpose(0, 1)
        loss = pictures.new_zeros(())
        chunk = self.chunk or self._at_once(pictures.device)
        group = 1 if self.whole else max(1, chunk // (grid.shape[1] * self.lpc))
        for x, out, chosen in zip(grid.split(group), places.split(group), rows.split(group), strict=True):
            other = self._real(theta, real, chosen, chunk, x.dtype) if known is None else known[chosen]
            part, found = self._group(theta, x.flatten(0, 2), other, chunk)
            loss += part
            out.copy_(found.view(out.shape))
        return FeatureMatch(loss, gradient)

    @torch.no_grad()
    def known(self, theta: Tensor, real: RealPictures) -> Tensor:
        """Features [N, d] of all real pictures."""
        rows = torch.arange(len(real.labels), device=real.labels.device)
        parts = rows.split(self._at_once(theta.device))
        return torch.cat([self.embedding.first(theta, real.pick(part, theta.dtype), tape=False)[0] for part in parts])

    def _at_once(self, device: torch.device) -> int:
        # on a CPU larger parts are no faster, but those of a class in two are made twice
        return 64 if device.type == "cpu" else pictures_at_once(device, self.size)

    def _group(self, theta: Tensor, x: Tensor, real: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Loss and gradient [n, 3, S, S] of some classes' pictures; ``real`` [classes, m, d]."""
        size = len(x) if self.whole else chunk
        parts, first = x.split(size), self.embedding.first
        tape: Any = None
        features = []
        for part in parts:
            part_features, tape = first(theta, part, tape=len(parts) == 1)
            features.append(part_features)
        loss, pull = self._mmd(torch.cat(features).unflatten(0, (len(real), -1)), real)
        found = []
        for part, g in zip(parts, pull.flatten(0, 1).split(size), strict=True):
            if len(parts) > 1:  # a class of more than a chunk: its activations are made again
                tape = first(theta, part)[1]
            found.append(self.embedding.images(theta, g, tape))
        return loss, torch.cat(found)

    def _real(self, theta: Tensor, real: RealPictures, rows: Tensor, chunk: int, dtype: torch.dtype) -> Tensor:
        """Features [classes, m, d] of the pictures ``rows`` [classes, m]."""
        parts = rows.flatten().split(rows.numel() if self.whole else chunk)
        features = [self.embedding.first(theta, real.pick(part, dtype), tape=False)[0] for part in parts]
        return torch.cat(features).view(*rows.shape, -1)

    def _mmd(self, features: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and its gradient in the features [C, n, d]."""
        with torch.enable_grad():
            leaf = features.detach().requires_grad_()
            sigmas = ops.mmd_median(features, real) if self.bandwidths is None else features.new_tensor(self.bandwidths)
            # the only sample of a class has no pair to compare
            loss = ops.mmd(leaf, real, sigmas, unbiased=leaf.shape[1] > 1).sum()
            pull: Tensor = torch.autograd.grad(loss, leaf)[0]
        return loss.detach(), pull
