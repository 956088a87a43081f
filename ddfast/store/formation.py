"""Multi-formation: each stored image is decoded into several (IDC: Kim et al., ICML 2022, arXiv 2205.14959)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("single", "multi", "bound")
_PART = 256
PADDING = 0.5  # of a side that the factor does not divide, in [0, 1] pixels


@dataclass(frozen=True)
class Formation:
    """How stored images are decoded.

    With factor f an image is cut into f x f tiles, each upsampled (bilinear) to the whole size; a side that f does not
    divide is padded below and on the right. ``kind`` "single" does so with every image; "multi" also with all smaller
    factors, f = 1 being the image itself; "bound" keeps a batch of images within ``cap`` decoded ones: as many of the
    first images as fit take factor f, then f - 1, and so on.

    Raises:
        ValueError: a value out of range.
    """

    factor: int = 1
    kind: str = "single"
    cap: int = 128

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise ValueError(f"factor: got {self.factor!r}, expected 1 or more")
        if self.kind not in KINDS:
            raise ValueError(f"formation: got {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.cap < 1:
            raise ValueError(f"cap: got {self.cap!r}, expected 1 or more")

    def as_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Formation:
        """Of a manifest; one image each where it says nothing.

        Raises:
            ValueError: something else than `as_json` gives.
        """
        if value is None:
            return cls()
        try:
            return cls(**value)
        except TypeError as error:
            raise ValueError(f"formation: got {value!r}, expected factor, kind and cap") from error

    def parts(self, count: int) -> list[tuple[int, int, int]]:
        """(factor, first image, images) of what is decoded of ``count`` images, in order."""
        if self.factor == 1:
            return [(1, 0, count)]
        if self.kind == "single":
            return [(self.factor, 0, count)]
        if self.kind == "multi":
            return [(factor, 0, count) for factor in range(1, self.factor + 1)]
        found, done, decoded = [], 0, 0
        for factor in range(self.factor, 0, -1):
            room = max(self.cap - decoded - (count - done), 0)
            taken = min(room // factor**2, count - done) if factor > 1 else count - done
            found.append((factor, done, taken))
            done, decoded = done + taken, decoded + taken * factor**2
        return [part for part in found if part[2]]

    def sources(self, count: int) -> Tensor:
        """int64 [m]: of ``count`` images, the one that each decoded image comes from."""
        parts = [torch.arange(first, first + n).repeat(f * f) for f, first, n in self.parts(count)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    def decode(self, images: Tensor) -> Tensor:
        """[m, c, H, W] of images [n, c, H, W] in [0, 1]; differentiable.

        The order is that of `sources`: part by part, in a part tile by tile (row by row), in a tile image by image.

        Raises:
            ValueError: another shape, or pictures smaller than the factor.
        """
        if images.ndim != 4 or min(images.shape[2:]) < self.factor:
            raise ValueError(
                f"images: got shape {list(images.shape)}, expected [n, c, H, W] with sides of {self.factor} or more"
            )
        parts = [_zoomed(images[first : first + n], factor) for factor, first, n in self.parts(len(images))]
        return torch.cat(parts) if parts else images


def decode_bytes(images: Tensor, formation: Formation) -> tuple[Tensor, Tensor]:
    """Pictures uint8 [m, H, W, 3] decoded from uint8 [n, H, W, 3], rounded, and the stored one of each, int64 [m].

    The images are decoded in parts of 256, one part after the other.
    """
    decoded, sources = [images[:0]], [torch.empty(0, dtype=torch.int64)]
    for start in range(0, len(images), _PART):
        part = images[start : start + _PART]
        pixels = formation.decode(part.permute(0, 3, 1, 2).float() / 255) * 255
        decoded.append(pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
        sources.append(formation.sources(len(part)) + start)
    return torch.cat(decoded), torch.cat(sources)


def _zoomed(images: Tensor, factor: int) -> Tensor:
    if factor == 1:
        return images
    height, width = images.shape[2:]
    more = (-height % factor, -width % factor)
    if any(more):
        images = F.pad(images, (0, more[1], 0, more[0]), value=PADDING)
    rows, columns = (height + more[0]) // factor, (width + more[1]) // factor
    n, c = images.shape[:2]
    tiles = images.reshape(n, c, factor, rows, factor, columns).permute(2, 4, 0, 1, 3, 5)
    return F.interpolate(tiles.reshape(-1, c, rows, columns), (height, width), mode="bilinear", align_corners=False)
