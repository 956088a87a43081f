"""RDED's settings and the presets of the paper's scripts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ddfast.methods._options import option


@dataclass(frozen=True)
class RDEDConfig:
    """Settings that decide what is distilled (RDED: Sun et al., CVPR 2024, arXiv 2312.03526).

    Per class: ``mipc`` pictures are drawn, each gives ``num_crop`` square random crops covering ``scale`` of its area,
    resized to ``size // factor``; the observer scores each crop alone on a zero canvas of ``size``; the best crop of
    each of the ``ipc * factor**2`` best pictures is stitched into ``ipc`` mosaics of ``factor x factor`` patches.
    """

    ipc: int = option(10, "distilled images per class")
    factor: int = option(2, "patches along each side of a mosaic")
    mipc: int = option(300, "source pictures drawn per class")
    num_crop: int = option(5, "random crops per picture")
    size: int = option(224, "side of the distilled images in pixels")
    scale: tuple[float, float] = option((0.08, 1.0), "range of a crop's share of the picture's area")
    seed: int = option(0, "seed of every random choice")
    observer: str | None = option(None, "torchvision/timm/ddfast model name, checkpoint file, or train:NAME", cli=True)
    weights: str | None = option(None, "file with the observer's weights (default: the published ones)")
    random_weights: bool = option(False, "untrained observer, for timing only; skips the class-order check")
    precision: str = option("fp32", "fp32; or bf16, on GPUs fp16 (near ties are re-scored in fp32: same selection)")
    rounding: str = option("nearest", "pixel rounding of the mosaics: nearest, or truncate as the reference does")
    format: str = option("folder", "folder (JPEG files), png (lossless files) or safetensors")
    jpeg_quality: int = option(75, "JPEG quality of the folder format (the reference's is 75)")
    parity: bool = option(False, "reproduce the reference implementation's files byte for byte (slow)")
    preset: str | None = option(None, "name of the preset these settings came from", cli=False)
    parity_workers: int = option(0, "loader workers of the reference run to reproduce (its crops depend on them)")

    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "precision": ("fp32", "bf16", "fp16"), "rounding": ("nearest", "truncate"),
        "format": ("folder", "png", "safetensors"),
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("ipc", "factor", "mipc", "num_crop", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)}, expected 1 or more")
        if self.size < self.factor:
            raise ValueError(f"factor: got {self.factor}, expected at most size ({self.size})")
        if self.patches > self.mipc:
            raise ValueError(
                f"mipc: got {self.mipc}, but ipc * factor**2 = {self.patches} patches a class are needed; "
                f"give mipc >= {self.patches} or a smaller ipc or factor"
            )
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"scale: got {self.scale}, expected 0 < low <= high <= 1")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed}, expected 0 or more")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected {' or '.join(allowed)}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality: got {self.jpeg_quality}, expected 1 to 95 (format png is lossless)")
        if self.parity and self.precision != "fp32":
            raise ValueError(f"precision: got {self.precision!r}, expected fp32 with parity")

    @property
    def patches(self) -> int:
        """Patches a class: ``ipc * factor**2``."""
        return self.ipc * self.factor**2

    @property
    def patch(self) -> int:
        """Side of a scored patch in pixels: ``size // factor``."""
        return self.size // self.factor


_LOW = {"factor": 1, "num_crop": 5, "mipc": 300, "ipc": 10}
_HIGH = {"factor": 2, "num_crop": 5, "mipc": 300, "ipc": 10}

# The reference's scripts, by data set and resolution; "smoke" is ours and runs anywhere in a minute.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {**_LOW, "size": 32, "observer": "conv3"},
    "cifar10-resnet18": {**_LOW, "size": 32, "observer": "resnet18_modified"},
    "cifar100": {**_LOW, "size": 32, "observer": "conv3"},
    "cifar100-resnet18": {**_LOW, "size": 32, "observer": "resnet18_modified"},
    "tinyimagenet": {**_LOW, "size": 64, "observer": "conv4"},
    "tinyimagenet-resnet18": {**_LOW, "size": 64, "observer": "resnet18_modified"},
    "imagenet-nette": {**_HIGH, "size": 128, "observer": "conv5"},
    "imagenet-nette-resnet18": {**_HIGH, "size": 224, "observer": "resnet18"},
    "imagenet-woof": {**_HIGH, "size": 128, "observer": "conv5"},
    "imagenet-woof-resnet18": {**_HIGH, "size": 224, "observer": "resnet18"},
    "imagenet-10": {**_HIGH, "size": 224, "observer": "resnet18"},
    "imagenet-100": {**_HIGH, "size": 128, "observer": "conv6"},
    "imagenet-100-resnet18": {**_HIGH, "size": 224, "observer": "resnet18"},
    "imagenet-1k": {**_HIGH, "size": 224, "observer": "resnet18"},
    "imagenet-1k-cr1": {**_HIGH, "num_crop": 1, "size": 224, "observer": "resnet18"},
    "smoke": {"factor": 1, "num_crop": 5, "mipc": 60, "ipc": 5, "size": 32, "observer": "train:conv3"},
}
