"""Small real runs: class folders of JPEGs of several sizes and a small convolutional observer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from ddfast._types import IMAGENET


def write_pictures(root: Path, classes: int, each: int, *, side: int = 48, seed: int = 0) -> Path:
    """Class folders ``00000`` ... with blurred noise in a colour of the class, sizes from 40x56 to 70x90."""
    rng = np.random.default_rng(seed)
    for label in range(classes):
        folder = root / f"{label:05d}"
        folder.mkdir(parents=True)
        tint = rng.uniform(60, 190, 3)
        for i in range(each):
            height, width = int(rng.integers(side - 8, side + 22)), int(rng.integers(side + 8, side + 42))
            coarse = rng.normal(0, 55, (6, 7, 3)) + tint
            picture = Image.fromarray(coarse.clip(0, 255).astype(np.uint8)).resize((width, height), Image.BICUBIC)
            picture.save(folder / f"picture_{i:03d}.jpg", quality=92)
    return root


def small_net(classes: int = 4, seed: int = 5) -> nn.Module:
    """Two strided convolutions with non-trivial batch-norm statistics; padding makes the canvas frame non-constant."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, stride=1, padding=1), nn.ReLU(),
        nn.Conv2d(24, 32, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, classes),
    )  # fmt: skip
    nn.init.uniform_(net[1].running_mean, -0.5, 0.5)
    nn.init.uniform_(net[1].running_var, 0.5, 2.0)
    with torch.no_grad():
        net[-1].weight.mul_(30)  # spread the scores as a trained observer's are
    return net.eval()


class TintNet(nn.Module):
    """Classifies by the mean colour: the nearest of the given normalised ``tints`` [classes, 3]."""

    def __init__(self, tints: torch.Tensor) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(tints))
        self.head.weight.data = 200 * tints
        self.head.bias.data = -100 * (tints**2).sum(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x.mean((2, 3)))


def class_tint(root: Path, label: int) -> torch.Tensor:
    """Mean colour of a class's pictures, normalised as ImageNet."""
    pixels = [np.array(Image.open(p)).reshape(-1, 3).mean(0) for p in sorted((root / f"{label:05d}").iterdir())]
    colour = torch.tensor(np.mean(pixels, axis=0) / 255, dtype=torch.float32)
    return (colour - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)


SETTINGS = {
    "ipc": 2, "factor": 2, "mipc": 12, "num_crop": 3, "size": 32, "check_classes": False, "quiet": True,
    "engine": "torch",
}  # fmt: skip


def files_of(root: Path) -> dict[str, bytes]:
    """Every file below ``root`` by relative name."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
