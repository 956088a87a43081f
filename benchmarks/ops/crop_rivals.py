"""More rivals of multi_crop: torchvision v2, Pillow, and the plain path compiled. Same output as those of crop_work."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks.ops.crop_work import MEAN, RIVALS, STD, Work
from ddfast.bench.machine import package

_PACKAGES = {
    "torch-float": "torch",
    "torch-uint8": "torch",
    "fast_image_resize": "cykooz-resizer",
    "opencv-area": "opencv-python-headless",
}


@dataclass(frozen=True)
class Rival:
    """A way to do the job: function, name and version, largest mean difference from the definition in grey levels."""

    run: Callable[[Work], Tensor]
    baseline: str
    levels: float


def torchvision_v2(work: Work) -> Tensor:
    """``v2.functional.resized_crop`` on uint8 tensors, then to float and normalised in one batch."""
    from torchvision.transforms.v2 import functional as V

    images = [torch.from_numpy(picture).permute(2, 0, 1) for picture in work.pictures]
    size = [work.side, work.side]
    rows = zip(work.index, work.boxes, strict=True)
    small = torch.stack([V.resized_crop(images[i], *box, size, antialias=True) for i, box in rows])
    return V.normalize(V.to_dtype(small, torch.float32, scale=True), list(MEAN), list(STD))


def pillow(work: Work) -> Tensor:
    """Pillow's bilinear resize with a box, then float and normalised."""
    images = [Image.fromarray(picture) for picture in work.pictures]
    size, resample = (work.side, work.side), Image.Resampling.BILINEAR
    out = []
    for index, (top, left, height, width) in zip(work.index, work.boxes, strict=True):
        small = images[index].resize(size, resample, box=(left, top, left + width, top + height))
        out.append(np.asarray(small))
    batch = torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).contiguous().float()
    mean, std = (torch.tensor(value)[:, None, None] * 255 for value in (MEAN, STD))
    return batch.sub_(mean).div_(std)


def torch_compile(work: Work) -> Tensor:
    """The float path under ``torch.compile`` with dynamic box sizes."""
    resize = _compiled(work.side)
    rows = zip(work.index, work.boxes, strict=True)
    pictures = [torch.from_numpy(picture) for picture in work.pictures]
    return torch.cat([resize(pictures[i][t : t + h, left : left + w]) for i, (t, left, h, w) in rows])


@functools.cache
def _compiled(side: int) -> Callable[[Tensor], Tensor]:
    mean, std = (torch.tensor(value)[:, None, None] for value in (MEAN, STD))

    def resize(crop: Tensor) -> Tensor:
        chw = crop.permute(2, 0, 1)[None].float() / 255
        return (F.interpolate(chw, size=(side, side), mode="bilinear", antialias=True) - mean) / std

    return torch.compile(resize, dynamic=True)


def rivals() -> dict[str, Rival]:
    """By name, those whose package is installed."""
    found = {
        name: Rival(run, package(_PACKAGES.get(name, module)), levels)
        for name, (run, module, levels) in RIVALS.items()
        if find_spec(module)
    }
    found["torch-compile"] = Rival(torch_compile, package("torch"), 1e-3)
    found["torchvision-v2"] = Rival(torchvision_v2, package("torchvision"), 1.0)
    found["pillow"] = Rival(pillow, package("pillow"), 1.0)
    return found
