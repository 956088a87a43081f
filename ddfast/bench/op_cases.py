"""multi_crop, crop_score and mosaic against plain torch and Pillow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast import ops
from ddfast._types import IMAGENET
from ddfast.bench import rivals, work
from ddfast.bench.cases import Case, Setting
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.bench.pictures import picture
from ddfast.data import draw_rrc_boxes

HEIGHT, WIDTH, CROPS, SIDE = 375, 500, 5, 112
DIFFERENT = 20
LEVEL = 1 / 255 / min(IMAGENET.std)  # one grey level in normalised units


@dataclass
class Boxes:
    """Made-up pictures with five of RDED's boxes each."""

    pictures: list[np.ndarray]
    boxes: list[list[int]]
    index: list[int]

    @classmethod
    def of(cls, count: int) -> Boxes:
        """``count`` boxes."""
        images = -(-count // CROPS)
        different = [picture(HEIGHT, WIDTH, seed) for seed in range(min(images, DIFFERENT))]
        sizes = np.tile(np.array([[HEIGHT, WIDTH]], np.int32), (images, 1))
        boxes = draw_rrc_boxes(0, 0, np.arange(images), sizes, CROPS).reshape(-1, 4)[:count].tolist()
        return cls([different[k % DIFFERENT] for k in range(images)], boxes, [k // CROPS for k in range(count)])

    def packed(self, device: str) -> list[Tensor]:
        """What the ops take."""
        pixels = torch.from_numpy(np.concatenate([each.reshape(-1) for each in self.pictures]))
        offsets = torch.arange(len(self.pictures)) * (3 * HEIGHT * WIDTH)
        sizes = torch.tensor([[HEIGHT, WIDTH]] * len(self.pictures), dtype=torch.int32)
        rest = torch.tensor(self.boxes, dtype=torch.int32), torch.tensor(self.index, dtype=torch.int32)
        return [each.to(device) for each in (pixels, offsets, sizes, *rest)]

    def cost(self, itemsize: int, unit: str) -> Work:
        """Of reading, resizing and writing once."""
        sizes = [each.size for each in self.pictures]
        return replace(work.crops(self.boxes, self.index, sizes, SIDE, itemsize), unit=unit)


def levels(wanted: Tensor, scale: float, bound: float) -> Callable[[Tensor], Check]:
    """Check of the mean difference from ``wanted``; a grey level is ``scale``."""
    name = "mean grey levels off the definition"
    return lambda out: Check(name, float((out.float().cpu() - wanted).abs().mean()) / scale, bound)


def multi_crop(setting: Setting) -> Case:
    """Boxes of decoded pictures to normalised float32 crops of 112 px."""
    made = Boxes.of(setting.count(10, 50, 1000))
    packed = made.packed(setting.device)
    options: dict[str, Any] = {"size": (SIDE, SIDE), "mean": IMAGENET.mean, "std": IMAGENET.std}
    with ops.use_backend("reference", ["multi_crop"]):
        wanted = ops.multi_crop(*made.packed("cpu"), **options)
    out = torch.empty(wanted.shape, device=setting.device)
    pictures = [torch.from_numpy(each).to(setting.device) for each in made.pictures]
    grouped = [made.boxes[k : k + CROPS] for k in range(0, len(made.boxes), CROPS)]

    def rival() -> Tensor:
        pairs = zip(pictures, grouped, strict=True)
        return torch.cat([rivals.float_crops(rivals.to_float(image), boxes, SIDE) for image, boxes in pairs])

    return Case(
        f"{len(made.boxes)} crops of {WIDTH}x{HEIGHT} to {SIDE} px, float32",
        made.cost(4, "crop"),
        lambda: ops.multi_crop(*packed, **options, out=out, validate=False),
        rival,
        f"{package('torch')} float interpolate, antialiased",
        levels(wanted, LEVEL, 1e-3),
        levels(wanted, LEVEL, 1e-3),
    )


def crop_score(setting: Setting) -> Case:
    """Loss of every crop and the best crop of each picture."""
    n, m, classes = setting.count(64, 64, 4096), CROPS, 1000
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(n, m, classes, generator=generator)).to(setting.device)
    labels = torch.randint(0, classes, (n,), generator=generator).to(setting.device)
    with ops.use_backend("reference", ["crop_score"]):
        truth = ops.crop_score(logits.cpu().double(), labels.cpu())

    def check(out: tuple[Tensor, ...]) -> Check:
        error = float(((out[0].cpu().double() - truth[0]).abs() / (1 + truth[0])).max())
        same = torch.equal(out[2].cpu(), truth[2])
        return Check("relative loss error against float64, same crops", error if same else float("inf"), 2e-5)

    return Case(
        f"logits {n}x{m}x{classes}, float32",
        work.scores(n, m, classes),
        lambda: ops.crop_score(logits, labels),
        lambda: rivals.cross_entropy_minimum(logits, labels),
        f"{package('torch')} cross_entropy, min",
        check,
        check,
    )


def mosaic(setting: Setting) -> Case:
    """Chosen boxes cut again and stitched into 2 x 2 mosaics."""
    made = Boxes.of(setting.count(8, 40, 320))
    packed = made.packed(setting.device)
    with ops.use_backend("reference", ["mosaic"]):
        wanted = ops.mosaic(*made.packed("cpu"), size=2 * SIDE, factor=2)

    def check(out: Tensor) -> Check:
        off = (out.cpu().int() - wanted.int()).abs()
        share = float((off > 0).float().mean()) if int(off.max()) <= 1 else 1.0
        return Check("share of bytes off the definition, none by more than 1", share, 1e-4)

    return Case(
        f"{len(made.boxes)} patches of {SIDE} px into mosaics of {2 * SIDE} px",
        made.cost(1, "patch"),
        lambda: ops.mosaic(*packed, size=2 * SIDE, factor=2, validate=False),
        lambda: rivals.paste(made.pictures, made.index, made.boxes, 2 * SIDE),
        f"{package('pillow')} resize, paste",
        check,
        levels(wanted.float(), 1.0, 1.0),
    )
