"""Rivals of augment_batch: what training programs do to a batch, with the same draws, to float32 [n, 3, h, w].

They are spared the drawing, which ddfast's time contains where the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as V1
from torchvision.transforms.v2 import functional as V2

from benchmarks.ops.crop_work import MEAN, STD, make_picture
from ddfast.bench.machine import package
from ddfast.train.views import ViewConfig, Views, draw_views

SEED = 3


@dataclass
class Work:
    """A resident set uint8 [N, H, W, 3], the same as Pillow's pictures, and how views of it are drawn."""

    images: Tensor
    pictures: list[Image.Image]
    config: ViewConfig
    batch: int

    @property
    def side(self) -> int:
        return self.config.size[0]

    def draw(self, step: int = 0) -> Views:
        """Draws of one step, each over other samples."""
        count = len(self.images)
        index = np.arange(step * self.batch, (step + 1) * self.batch) % count
        return draw_views(self.config, (self.side, self.side), SEED, 0, step, index)


def make_work(shape: str, batch: int) -> Work:
    """``imagenet-224``: RDED's mosaics of factor 2; ``cifar-32``: factor 1, where the crop is the whole picture.

    The set holds two batches, since a set larger than the caches is what a training run reads.
    """
    side = int(shape.split("-")[1])
    rng = np.random.default_rng(0)
    arrays = np.stack([make_picture(rng, side, side) for _ in range(2 * batch)])
    mosaic = side >= 64
    config = ViewConfig(
        (side, side), factor=2 if mosaic else 1, scale=(0.5, 1.0) if mosaic else None, flip=True, mix="cutmix"
    )
    return Work(torch.from_numpy(arrays), [Image.fromarray(array) for array in arrays], config, batch)


def _strips(image: Tensor, columns: list[int], rows: list[int]) -> Tensor:
    """RDED's ShufflePatches of a tensor [3, H, W]: strips are cut, permuted and joined, columns first."""
    if len(columns) == 1:
        return image
    parts = image.chunk(len(columns), dim=2)
    parts = torch.cat([parts[k] for k in columns], dim=2).chunk(len(rows), dim=1)
    return torch.cat([parts[k] for k in rows], dim=1)


def _cutmix(batch: Tensor, views: Views) -> Tensor:
    top, left, height, width = views.mix_box.tolist()
    window = (..., slice(top, top + height), slice(left, left + width))
    batch[window] = batch[views.partner][window]
    return batch


def _samples(views: Views) -> list[tuple[int, list[int], list[int], list[int], bool]]:
    columns, rows, boxes = views.columns.tolist(), views.rows.tolist(), views.boxes.tolist()
    return list(zip(views.index.tolist(), columns, rows, boxes, views.flip.tolist(), strict=True))


def reference_transform(work: Work, views: Views) -> Tensor:
    """RDED's training transform: Pillow picture to float tensor, strips, antialiased crop, flip, normalise, a sample
    at a time; then CutMix of the batch."""
    out = []
    for index, columns, rows, box, flip in _samples(views):
        image = _strips(V1.to_tensor(work.pictures[index]), columns, rows)
        image = V1.resized_crop(image, *box, list(work.config.size), antialias=True)
        out.append(V1.normalize(V1.hflip(image) if flip else image, MEAN, STD))
    return _cutmix(torch.stack(out), views)


def v2_float(work: Work, views: Views) -> Tensor:
    """The same with torchvision v2's functions."""
    out = []
    for index, columns, rows, box, flip in _samples(views):
        image = V2.to_dtype(V2.pil_to_tensor(work.pictures[index]), torch.float32, scale=True)
        image = V2.resized_crop(_strips(image, columns, rows), *box, list(work.config.size), antialias=True)
        out.append(V2.normalize(V2.horizontal_flip(image) if flip else image, list(MEAN), list(STD)))
    return _cutmix(torch.stack(out), views)


def v2_uint8(work: Work, views: Views) -> Tensor:
    """torchvision v2 on bytes that are tensors already; to float and normalised as one batch."""
    out = []
    for index, columns, rows, box, flip in _samples(views):
        image = _strips(work.images[index].permute(2, 0, 1), columns, rows)
        image = V2.resized_crop(image, *box, list(work.config.size), antialias=True)
        out.append(V2.horizontal_flip(image) if flip else image)
    batch = V2.normalize(V2.to_dtype(torch.stack(out), torch.float32, scale=True), list(MEAN), list(STD), inplace=True)
    return _cutmix(batch, views)


def torch_batch(work: Work, views: Views) -> Tensor:
    """Plain torch on the whole batch where it can be: gather with strips, flip, normalise; one resize a sample."""
    strip = work.side // work.config.factor
    within = torch.arange(strip)
    row = (views.rows.long()[:, :, None] * strip + within).flatten(1)[:, :, None]
    column = (views.columns.long()[:, :, None] * strip + within).flatten(1)[:, None, :]
    if work.config.factor > 1:
        batch = work.images[views.index[:, None, None], row, column].permute(0, 3, 1, 2)
        crops = zip(batch, views.boxes.tolist(), strict=True)
        batch = torch.cat([_resized(V1.crop(image, *box), work.config.size) for image, box in crops])
    else:
        batch = work.images[views.index].permute(0, 3, 1, 2).float()
    batch = torch.where(views.flip[:, None, None, None], batch.flip(3), batch)
    mean, std = (torch.tensor(value)[:, None, None] * 255 for value in (MEAN, STD))
    return _cutmix((batch - mean) / std, views)


def _resized(crop: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(crop[None].float(), size=size, mode="bilinear", antialias=True)


# name -> (function, its package, largest mean difference from the float definition in grey levels)
RIVALS: dict[str, tuple[Callable[[Work, Views], Tensor], str, float]] = {
    "reference-transform": (reference_transform, package("torchvision"), 1e-3),
    "torchvision-v2-float": (v2_float, package("torchvision"), 1e-3),
    "torchvision-v2-uint8": (v2_uint8, package("torchvision"), 1.0),
    "torch-batch": (torch_batch, package("torch"), 1e-3),
}
