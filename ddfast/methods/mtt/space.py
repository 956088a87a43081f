"""The space that images are trained in: normalised or whitened pixels, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast._types import IMAGENET, Normalization
from ddfast.data.whitening import ZCA

CIFAR = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))


@dataclass(frozen=True)
class Space:
    """``normalization`` of [0, 1] pixels, or ``zca`` instead of it."""

    normalization: Normalization
    zca: ZCA | None = None

    @classmethod
    def of(cls, source_name: str, images: Tensor, *, zca: bool) -> Space:
        """For the pictures of a set: CIFAR's own constants where it is CIFAR, else ImageNet's."""
        normalization = CIFAR if source_name.startswith("cifar") else IMAGENET
        return cls(normalization, ZCA.fit(images) if zca else None)

    def apply(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] to float32 [N, 3, H, W]."""
        if self.zca is not None:
            return self.zca.apply(images)
        mean, std = self._constants()
        return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def invert(self, x: Tensor) -> Tensor:
        """float [N, 3, H, W] to the nearest pictures, uint8 [N, H, W, 3]."""
        x = x.detach().cpu()
        if self.zca is not None:
            pixels = self.zca.invert(x)
        else:
            mean, std = self._constants()
            pixels = x.permute(0, 2, 3, 1) * std + mean
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    def _constants(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.normalization.mean), torch.tensor(self.normalization.std)
