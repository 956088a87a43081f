"""The space that images are trained in by matching methods: normalised or whitened pixels, and the way back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
        """Fitted to all training pictures of a set, uint8 [N, H, W, 3].

        The constants of a normalisation are CIFAR's where it is CIFAR, else ImageNet's.
        """
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

    def before(self, student: nn.Module) -> nn.Module:
        """``student`` behind a layer that takes pictures normalised by ``normalization`` instead."""
        return student if self.zca is None else nn.Sequential(_Whitening(self.normalization, self.zca), student)

    def _constants(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.normalization.mean), torch.tensor(self.normalization.std)


class _Whitening(nn.Module):
    """Normalised pictures [n, 3, H, W] to whitened ones."""

    def __init__(self, normalization: Normalization, zca: ZCA) -> None:
        super().__init__()
        for name, value in (("scale", normalization.std), ("offset", normalization.mean)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("mean", zca.mean, persistent=False)
        self.register_buffer("matrix", zca.matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x * self.get_buffer("scale") + self.get_buffer("offset")).flatten(1)
        return ((pixels - self.get_buffer("mean")) @ self.get_buffer("matrix")).view(x.shape)
