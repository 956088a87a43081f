"""Pictures and sources made on the spot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from ddfast.data.transforms import draw_rrc_boxes


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth random RGB picture with some noise, so that JPEG has something to do."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    noisy = np.asarray(coarse).astype(np.int64) + rng.integers(-9, 10, (height, width, 3))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def make_class_folders(root: Path, counts: dict[str, int], *, seed: int = 0) -> Path:
    """Class folders of small JPEGs of different sizes."""
    number = seed
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            number += 1
            image = picture(40 + number * 7 % 31, 40 + number * 5 % 37, number)
            (root / name / f"{name}_{index:03d}.JPEG").write_bytes(encode(image, quality=90))
    return root


class DrawRRC:
    """A picklable draw."""

    def __init__(self, crops: int, seed: int = 3) -> None:
        self.crops = crops
        self.seed = seed

    def __call__(self, label: int, positions: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        return draw_rrc_boxes(self.seed, label, positions, sizes, self.crops)
