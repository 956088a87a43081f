"""Pictures of a distribution: every class's mean, samples, and the way between four classes."""

from __future__ import annotations

import io

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddfast._printable import printable
from ddfast.data.space import Space
from ddfast.store import DistilledSet, contact_sheet, contact_sheet_png
from ddfast.train.latent.distribution import Distribution, LatentBlock

MEANS_FILE, SAMPLES_FILE, BETWEEN_FILE = "means.png", "samples.png", "interpolation.png"
_SAMPLES = 9  # beside the mean
_STEPS = 8
_PIXELS = 64  # of a thumbnail, about
_GAP = 2
_LINE = 24  # of text in pixels
_WIDTH = 600  # of a small picture, about


def sheet_png(distilled: DistilledSet) -> bytes:
    """The contact sheet that every set has: means of priors, a row a class."""
    shown = f"D3, {len(distilled.class_names)} classes, means of {distilled.ipc} priors per class"
    return contact_sheet_png(distilled, caption=shown)


def means_png(means: Tensor, labels: Tensor, classes: int) -> bytes:
    """The mean of each class's first prior, class after class in rows of about as many as there are rows.

    Args:
        means: uint8 [N, S, S, 3].
        labels: int64 [N].
        classes: how many.
    """
    firsts = [int(torch.nonzero(labels == label)[0]) for label in range(classes) if bool((labels == label).any())]
    side = max(1, round(len(firsts) ** 0.5))
    return _encoded(_picture(_tiled(means[firsts], -(-len(firsts) // side))))


def samples_png(distribution: Distribution, means: Tensor, space: Space, class_names: tuple[str, ...]) -> bytes:
    """A row a class: the mean of its first prior, then samples of its priors in turn.

    Args:
        distribution: of the set.
        means: uint8 [N, S, S, 3], its means as pictures.
        space: of the pictures.
        class_names: of the labels.
    """
    labels = distribution.labels
    most = int(torch.bincount(labels, minlength=len(class_names)).min().clamp(min=1))
    draws = [space.invert(distribution.samples(seed=0, epoch=epoch)) for epoch in range(-(-_SAMPLES // most))]
    firsts = torch.tensor([int(torch.nonzero(labels == label)[0]) for label in labels.unique().tolist()])
    images, every = torch.cat([means[firsts], *draws]), torch.cat([labels[firsts], *(labels for _ in draws)])
    kept = torch.cat([torch.nonzero(every == label)[: _SAMPLES + 1, 0] for label in every.unique().tolist()])
    side = means.shape[1]
    sheet = contact_sheet(
        images[kept], every[kept], class_names, caption="D3: the mean of a prior, then samples of the class's priors",
        max_images=_SAMPLES + 1, thumbnail=side * max(1, _PIXELS // side) if side <= 96 else 96,
    )  # fmt: skip
    return _encoded(sheet)


def between_png(distribution: Distribution, space: Space, class_names: tuple[str, ...]) -> bytes:
    """Pictures between four classes of the largest block, one in each corner, on straight lines in latent space."""
    block = max(distribution.blocks, key=lambda each: len(each.labels.unique()))
    corners = _corners(block)
    picture = _picture(_tiled(space.invert(block.grid(corners, _STEPS).flatten(0, 1)), _STEPS))
    sheet = Image.new("RGB", (picture.width, picture.height + 2 * _LINE), (255, 255, 255))
    sheet.paste(picture, (0, _LINE))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_LINE * 2 // 3)
    for place, row in enumerate(corners):
        name = printable(class_names[int(block.labels[row])], lines=False)
        left, top = place % 2 * sheet.width, place // 2 * (sheet.height - _LINE) + _LINE // 2
        draw.text((left - 4 if left else 4, top), name[:40], (32, 32, 32), font, "rm" if left else "lm")
    return _encoded(sheet)


def _corners(block: LatentBlock) -> tuple[int, int, int, int]:
    """First priors of four classes, evenly spread; fewer classes come again."""
    classes = block.labels.unique().tolist()
    chosen = [classes[place * len(classes) // 4] for place in range(4)]
    a, b, c, d = (int(torch.nonzero(block.labels == label)[0]) for label in chosen)
    return a, b, c, d


def _tiled(images: Tensor, columns: int) -> Tensor:
    """uint8 [H, W, 3] of pictures [n, S, S, 3] in rows of ``columns`` on white."""
    count, side = images.shape[:2]
    rows, step = -(-count // columns), side + _GAP
    sheet = torch.full((rows * step + _GAP, columns * step + _GAP, 3), 255, dtype=torch.uint8)
    for place, picture in enumerate(images):
        top, left = (at * step + _GAP for at in divmod(place, columns))
        sheet[top : top + side, left : left + side] = picture
    return sheet


def _picture(pixels: Tensor) -> Image.Image:
    """Small ones enlarged by a whole factor."""
    picture = Image.fromarray(pixels.numpy())
    times = max(1, round(_WIDTH / max(picture.size)))
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _encoded(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, format="PNG", optimize=True)
    return file.getvalue()
