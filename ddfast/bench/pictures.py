"""Made-up pictures, for machines without real ones: what they show does not matter for speed."""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from ddfast.nets import imagenet_wnids

DIFFERENT = 300  # files; classes link to the same ones


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colour fields with noise, about as hard to decode as a photograph."""
    rng = np.random.default_rng(seed)
    colours = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    coarse = colours.resize((width, height), Image.Resampling.BICUBIC)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 3)), 0, 255).astype(np.uint8)


def make_pictures(folder: Path, classes: int, each: int) -> Path:
    """Class folders of 375 x 500 JPEGs of about 100 kB (quality 96); kept when they are there already."""
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        path = files / f"{number:04d}.jpg"
        if not path.exists():
            memory = io.BytesIO()
            Image.fromarray(picture(375, 500, number)).save(memory, "JPEG", quality=96)
            path.write_bytes(memory.getvalue())

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(min(each, DIFFERENT))))
    train = folder / f"train-{classes}x{each}"
    for name in imagenet_wnids()[:classes]:
        (train / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            link = train / name / f"{number:04d}.jpg"
            if not link.exists():
                os.link(files / f"{number % DIFFERENT:04d}.jpg", link)
    return train
