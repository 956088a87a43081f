"""Small dataclasses that every room may use; no third-party import at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Normalization:
    """Per-channel ``(x - mean) / std`` of RGB pixels ``x`` scaled to [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        for name, value in (("mean", self.mean), ("std", self.std)):
            if len(value) != 3:
                raise ValueError(f"{name}: got {value!r}, expected three numbers (red, green, blue)")
        if min(self.std) <= 0:
            raise ValueError(f"std: got {self.std!r}, expected positive numbers")


IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class RaggedImages:
    """A batch of RGB pictures of different sizes, packed one after the other.

    ``pixels`` uint8 [total bytes], each picture row-major height x width x 3; ``offsets`` int64 [n], first byte of each
    picture; ``sizes`` int32 [n, 2], (height, width) in pixels.
    """

    pixels: Tensor
    offsets: Tensor
    sizes: Tensor

    def __len__(self) -> int:
        return int(self.offsets.shape[0])
