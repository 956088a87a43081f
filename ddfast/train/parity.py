"""RDED's student training step for step as its program does it, to compare the fast recipe with.

Differences from `train_student`: random numbers come from Python's, NumPy's and torch's global generators in the
original's order; one picture is augmented after the other; a throw-away forward of the student precedes each step, and
moves the running statistics of its batch norms. Slow, and meant for comparisons.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast._types import IMAGENET, Normalization
from ddfast.train.loop import LoopOptions, Objective, OnProgress, TrainReport, run
from ddfast.train.objective import Batch
from ddfast.train.student import StudentConfig
from ddfast.train.supervised import check_set


def train_like_rded(
    images: Tensor,
    student: nn.Module,
    teacher: Callable[[Tensor], Tensor],
    config: StudentConfig,
    *,
    normalization: Normalization = IMAGENET,
    on_progress: OnProgress | None = None,
) -> TrainReport:
    """Train ``student`` in place by the program of Sun et al. 2024 (arXiv 2312.03526).

    ``config.seed`` seeds all three global generators (the program seeds NumPy's not at all). Taken from ``config``:
    epochs, batch size, factor, cutmix_alpha, temperature, lr, weight decay; flips are always made.

    Args:
        images: uint8 [N, H, W, 3], sides multiples of the factor.
        student: maps normalised float32 [n, 3, H, W] to logits.
        teacher: the same, in eval mode.
        config: see above.
        normalization: of both.
        on_progress: as in ``supervised.fit``.

    Raises:
        ValueError: mixing switched off, or another optimiser or schedule than the program's.
        TypeError: wrong images.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    if (config.optimizer, config.schedule) != ("adamw", "half_cosine") or config.cutmix_alpha <= 0 or config.dsa:
        raise ValueError(
            "config: expected RDED's recipe: adamw, half_cosine, CutMix, no DSA (StudentConfig's defaults)"
        )
    images, _ = check_set(student, images, torch.zeros(len(images), dtype=torch.int64, device=images.device))
    pictures = images.permute(0, 3, 1, 2).float() / 255
    random.seed(config.seed)
    np.random.seed(config.seed)  # noqa: NPY002
    stream = torch.Generator().manual_seed(config.seed)

    def order(_epoch: int) -> Tensor:
        _drawn_seed(stream)  # the loader's base seed
        return torch.randperm(len(images), generator=torch.Generator().manual_seed(_drawn_seed(stream)))

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        views = [augment_like_rded(pictures[i], config.factor, normalization, stream) for i in batch.index.tolist()]
        return (cutmix_like_rded(torch.stack(views), config.cutmix_alpha, stream),)

    def loss(x: Tensor) -> Tensor:
        with torch.no_grad():
            student(x)
            target = F.softmax(teacher(x) / config.temperature, dim=1)
        return F.kl_div(F.log_softmax(student(x) / config.temperature, dim=1), target, reduction="batchmean")

    return run(student, len(images), config, Objective(prepare, loss, order), on_progress, LoopOptions())


def augment_like_rded(image: Tensor, factor: int, normalization: Normalization, stream: torch.Generator) -> Tensor:
    """One view [3, H, W] of a picture in [0, 1]: strips shuffled (Python's generator), crop, flip (``stream``)."""
    for axis in (2, 1):
        strips = list(image.split(image.shape[axis] // factor, dim=axis))
        random.shuffle(strips)
        image = torch.cat(strips, axis)
    top, left, height, width = _crop_box(image.shape[1], image.shape[2], 1 / factor, stream)
    part = image[None, :, top : top + height, left : left + width]
    image = F.interpolate(part, image.shape[1:], mode="bilinear", antialias=True, align_corners=False)[0]
    if float(torch.rand(1, generator=stream)) < 0.5:
        image = image.flip(2)
    mean, std = (
        torch.tensor(value, device=image.device).view(3, 1, 1) for value in (normalization.mean, normalization.std)
    )
    return (image - mean) / std


def cutmix_like_rded(x: Tensor, alpha: float, stream: torch.Generator) -> Tensor:
    """CutMix in place with NumPy's generator; the partners are a permutation from ``stream``."""
    height, width = x.shape[2:]  # the program takes width and height for each other; its pictures are square
    partner = torch.randperm(len(x), generator=stream).to(x.device)
    part = math.sqrt(1.0 - np.random.beta(alpha, alpha))  # noqa: NPY002
    half_h, half_w = int(height * part) // 2, int(width * part) // 2
    column, row = np.random.randint(height), np.random.randint(width)  # noqa: NPY002
    top, bottom = max(column - half_h, 0), min(column + half_h, height)
    left, right = max(row - half_w, 0), min(row + half_w, width)
    x[:, :, top:bottom, left:right] = x[partner][:, :, top:bottom, left:right]
    return x


def _crop_box(height: int, width: int, least: float, stream: torch.Generator) -> tuple[int, int, int, int]:
    """A RandomResizedCrop of area share [least, 1] and ratio 3/4 ... 4/3, with torchvision's order of draws."""
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        area = height * width * float(torch.empty(1).uniform_(least, 1.0, generator=stream))
        ratio = float(torch.exp(torch.empty(1).uniform_(low, high, generator=stream)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            top = int(torch.randint(0, height - h + 1, (1,), generator=stream))
            return top, int(torch.randint(0, width - w + 1, (1,), generator=stream)), h, w
    wide, tall = width, height
    if width / height < 3 / 4:
        tall = round(width / (3 / 4))
    elif width / height > 4 / 3:
        wide = round(height * (4 / 3))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _drawn_seed(stream: torch.Generator) -> int:
    return int(torch.empty((), dtype=torch.int64).random_(generator=stream))
