"""The reference implementation's random stream and arithmetic, step by step.

``parity=True`` reproduces the files of a seeded run of the reference: directory order, Python's shuffle, torch's draws
in the order the reference makes them, Pillow's decoder, crop-major batches through the padded observer, the literal
``-log(softmax)`` score, argmin and argsort, truncation to uint8 and Pillow's default JPEG.  The seeded run is
``random.seed(s); torch.manual_seed(s)``, then observer construction, class shuffles, the loader's base seed, crops.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ddfast._env import max_image_pixels
from ddfast._types import IMAGENET
from ddfast.methods.rded.config import RDEDConfig
from ddfast.store.codec import PICTURE_FORMATS

T = TypeVar("T")
# The reference normalises every data set with ImageNet's statistics.
_MEAN = torch.tensor(IMAGENET.mean)[:, None, None]
_STD = torch.tensor(IMAGENET.std)[:, None, None]
_INVERSE_STD = torch.tensor([1 / s for s in IMAGENET.std])[:, None, None]


@dataclass(frozen=True)
class ParityClass:
    """One class as the reference would load it: files and the crop boxes (top, left, side) of each."""

    label: int
    files: list[Path]
    boxes: list[list[tuple[int, int, int]]]


@dataclass(frozen=True)
class ParityResult:
    """``mosaics`` uint8 [ipc, S, S, 3]; ``chosen``/``crops``/``losses`` of the patches in rank order."""

    mosaics: np.ndarray
    chosen: list[int]
    crops: list[int]
    losses: list[float]


def seeded_observer(build: Callable[[], T], seed: int) -> tuple[T, torch.Generator]:
    """Builds the observer after seeding and returns torch's generator as the construction left it.

    The caller's global generator is put back.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        observer = build()
        generator = torch.Generator()
        generator.set_state(torch.get_rng_state())
    return observer, generator


def classes(folders: list[Path], config: RDEDConfig, generator: torch.Generator) -> Iterator[ParityClass]:
    """Every class's files and boxes, drawing from ``generator`` in the reference's order.

    Only image headers are read here, so skipping the classes that are finished costs little on resume.
    """
    rng = random.Random(config.seed)
    chosen = []
    for folder in folders:
        names = os.listdir(folder)
        rng.shuffle(names)
        if len(names) < config.mipc:
            raise ValueError(
                f"parity: class folder {folder.name} has {len(names)} files, the reference needs mipc={config.mipc}; "
                f"give a smaller mipc (at least {config.patches}) or run without parity"
            )
        chosen.append([folder / name for name in names[: config.mipc]])
    base_seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator).item())
    streams = [generator]
    if config.parity_workers:
        streams = [torch.Generator().manual_seed(base_seed + w) for w in range(config.parity_workers)]
    for label, files in enumerate(chosen):
        stream = streams[label % len(streams)]
        yield ParityClass(label, files, [_draw(path, config, stream) for path in files])


def _draw(path: Path, config: RDEDConfig, generator: torch.Generator) -> list[tuple[int, int, int]]:
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        width, height = image.size
    return [_random_resized_crop(height, width, config.scale, generator) for _ in range(config.num_crop)]


def _random_resized_crop(
    height: int, width: int, scale: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int]:
    """torchvision's RandomResizedCrop with ratio (1, 1): (top, left, side)."""
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(scale[0], scale[1], generator=generator).item()
        ratio = torch.exp(torch.empty(1).uniform_(0.0, 0.0, generator=generator)).item()
        side = round(math.sqrt(area * ratio))
        if 0 < side <= width and 0 < side <= height:
            top = torch.randint(0, height - side + 1, (1,), generator=generator).item()
            left = torch.randint(0, width - side + 1, (1,), generator=generator).item()
            return int(top), int(left), side
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side


def _patches(path: Path, boxes: list[tuple[int, int, int]], side: int) -> Tensor:
    """Normalised float32 patches [num_crop, 3, side, side] of one file."""
    with Image.open(path, formats=PICTURE_FORMATS) as image:
        if image.width * image.height > max_image_pixels():
            raise ValueError(f"{path}: {image.width} x {image.height} pixels, more than DDFAST_MAX_IMAGE_PIXELS allows")
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    values = pixels.to(torch.float32).div(255)
    cut = []
    for top, left, size in boxes:
        crop = values[:, top : top + size, left : left + size]
        if size != side:
            crop = F.interpolate(crop[None], (side, side), mode="bilinear", align_corners=False, antialias=True)[0]
        cut.append(((crop - _MEAN) / _STD).contiguous())
    return torch.stack(cut)


def distill_class(item: ParityClass, observer: nn.Module, config: RDEDConfig, target: int) -> ParityResult:
    """Scores, selects and stitches one class; ``target`` is the observer's output index of the class."""
    side = config.patch
    patches = torch.stack([_patches(f, b, side) for f, b in zip(item.files, item.boxes, strict=True)])
    losses = torch.stack([_literal_loss(observer, patches[:, k], config.size, target) for k in range(config.num_crop)])
    best = losses.argmin(0)  # [mipc]
    loss = losses.gather(0, best[None])[0]
    ranks = torch.argsort(loss, stable=True)[: config.patches]
    chosen = patches[ranks, best[ranks]]
    return ParityResult(
        to_uint8(stitch(chosen, config.factor, config.size)),
        ranks.tolist(),
        best[ranks].tolist(),
        loss[ranks].tolist(),
    )


@torch.inference_mode()
def _literal_loss(observer: nn.Module, patches: Tensor, size: int, target: int) -> Tensor:
    pad = size - patches.shape[-1]
    before, after = pad // 2, pad - pad // 2
    logits = observer(F.pad(patches, (before, after, before, after)))
    return -torch.log(torch.softmax(logits, dim=1)[:, target])


def stitch(patches: Tensor, factor: int, size: int) -> Tensor:
    """Rank r goes to mosaic ``r mod ipc``, cell ``r // ipc``; nearest neighbour fills cells of another size.

    Args:
        patches: float32 [ipc * factor**2, 3, s, s] in rank order.

    Returns:
        float32 [ipc, 3, size, size].
    """
    ipc = len(patches) // factor**2
    cells = patches.reshape(factor, factor, ipc, *patches.shape[1:])
    base, longer = divmod(size, factor)
    sides = [base + (i < longer) for i in range(factor)]
    rows = [
        torch.cat([F.interpolate(cells[i, j], (sides[i], sides[j])) for j in range(factor)], dim=3)
        for i in range(factor)
    ]
    return torch.cat(rows, dim=2)


def to_uint8(images: Tensor) -> np.ndarray:
    """Undoes the normalisation in float32 in the reference's two steps and truncates; uint8 [n, S, S, 3]."""
    values = images.div(_INVERSE_STD).add(_MEAN).mul(255)
    return values.to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
