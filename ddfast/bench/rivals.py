"""What one writes today for the same jobs, with torch and Pillow alone; each is as fast as its plain form allows."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ddfast._types import IMAGENET

Box = Sequence[int]
_MEAN, _STD = (torch.tensor(values)[:, None, None] for values in (IMAGENET.mean, IMAGENET.std))


def float_crops(picture: Tensor, boxes: Sequence[Box], side: int) -> Tensor:
    """Antialiased resize of boxes (top, left, height, width) of a float [3, H, W] in [0, 1], then normalise."""
    small = [
        F.interpolate(picture[None, :, t : t + h, left : left + w], (side, side), mode="bilinear", antialias=True)
        for t, left, h, w in boxes
    ]
    mean, std = (each.to(picture.device) for each in (_MEAN, _STD))
    return torch.cat(small).sub_(mean).div_(std)


def to_float(picture: Tensor) -> Tensor:
    """uint8 [H, W, 3] to float32 [3, H, W] in [0, 1]."""
    return picture.permute(2, 0, 1).contiguous().float().div_(255)


def decode(data: bytes) -> np.ndarray:
    """By Pillow: uint8 [H, W, 3]."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def input_path(data: bytes, boxes: Sequence[Box], side: int) -> Tensor:
    """As RDED's transform does: Pillow, the whole picture to float, a float resize for each crop."""
    return float_crops(to_float(torch.from_numpy(decode(data))), boxes, side)


def cross_entropy_minimum(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Loss of each crop [n, m], the smallest of each picture and where it is."""
    n, m, classes = logits.shape
    loss = F.cross_entropy(logits.reshape(-1, classes), labels.repeat_interleave(m), reduction="none").view(n, m)
    best = loss.min(1)
    return loss, best.values, best.indices


def paste(pictures: Sequence[np.ndarray], index: Sequence[int], boxes: Sequence[Box], side: int) -> Tensor:
    """2 x 2 mosaics of ``side`` px by Pillow's 8-bit resize with a box, and paste."""
    images, half, out = [Image.fromarray(picture) for picture in pictures], side // 2, []
    for first in range(0, len(boxes), 4):
        canvas = Image.new("RGB", (side, side))
        for cell in range(4):
            top, left, height, width = boxes[first + cell]
            box = (left, top, left + width, top + height)
            patch = images[index[first + cell]].resize((half, half), Image.Resampling.BILINEAR, box=box)
            canvas.paste(patch, (half * (cell % 2), half * (cell // 2)))
        out.append(np.asarray(canvas))
    return torch.from_numpy(np.stack(out))


def pad(patches: Tensor, canvas: int) -> Tensor:
    """Patches in the middle of a zero canvas."""
    return F.pad(patches, ((canvas - patches.shape[-1]) // 2,) * 4)


def save(image: Tensor, path: Path) -> None:
    """A uint8 [H, W, 3] as Pillow's default JPEG."""
    Image.fromarray(image.numpy()).save(path)
