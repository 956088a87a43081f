"""Real pictures that stay bytes in memory and are normalised when they are taken."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast._types import Normalization


class Resident:
    """Looks like float32 pictures [N, 3, H, W] to those who take rows of it, at a quarter of their memory.

    Rows are ``(pixels / 255 - mean) / std``, the same bits as when all were normalised at once.

    Args:
        pixels: uint8 [N, H, W, 3]; kept, not copied.
        normalization: of [0, 1] pixels.

    Raises:
        TypeError: pixels of another type.
        ValueError: of another shape.
    """

    dtype = torch.float32

    def __init__(self, pixels: Tensor, normalization: Normalization) -> None:
        if pixels.dtype != torch.uint8:
            raise TypeError(f"pixels: got {pixels.dtype}, expected torch.uint8")
        if pixels.ndim != 4 or pixels.shape[3] != 3:
            raise ValueError(f"pixels: got shape {list(pixels.shape)}, expected [N, H, W, 3]")
        self.pixels, self.normalization = pixels, normalization
        self._mean, self._std = (torch.tensor(x, device=pixels.device) for x in (normalization.mean, normalization.std))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        return ((self.pixels[rows].float() / 255 - self._mean) / self._std).permute(0, 3, 1, 2).contiguous()

    @property
    def shape(self) -> torch.Size:
        """[N, 3, H, W]."""
        count, height, width, channels = self.pixels.shape
        return torch.Size([count, channels, height, width])

    @property
    def device(self) -> torch.device:
        """Of the pixels, and of what is taken."""
        return self.pixels.device

    def to(self, device: str | torch.device) -> Resident:
        """On another device; itself where it is there."""
        return self if self.device == torch.device(device) else Resident(self.pixels.to(device), self.normalization)


Pictures = Tensor | Resident
