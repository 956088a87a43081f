"""Work and rivals of the multi_crop and mosaic benchmarks: same boxes, same pictures, one core, process CPU time.

Rivals that resize bytes round to grey levels, which the float path does not; each returns the same normalised float32
[m, 3, s, s] so that the whole job is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast.bench import floor
from ddfast.bench import work as jobs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255 / min(STD)  # one grey level in normalised units
_MEAN, _STD = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))

Boxes = list[tuple[int, int, int, int]]


@dataclass
class Work:
    """``count`` boxes, five to a picture; ``pictures`` uint8 [h, w, 3]."""

    pictures: list[np.ndarray]
    boxes: Boxes
    index: list[int]
    side: int

    def packed(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        pixels = torch.from_numpy(np.concatenate([p.reshape(-1) for p in self.pictures]))
        ends = np.cumsum([p.size for p in self.pictures])
        sizes = torch.tensor([p.shape[:2] for p in self.pictures], dtype=torch.int32)
        offsets = torch.from_numpy(np.concatenate([[0], ends[:-1]]))
        return pixels, offsets, sizes, torch.tensor(self.boxes, dtype=torch.int32), torch.tensor(self.index).int()


def make_work(shape: str, count: int) -> Work:
    """``rded-112``: square crops of 8 to 100 % of 375 x 500 pictures; ``wide-224``: 50 to 100 %, ratio 3/4 to 4/3."""
    rng = np.random.default_rng(0)
    height, width = 375, 500
    pictures = [make_picture(rng, height, width) for _ in range(-(-count // 5))]
    boxes: Boxes = []
    while len(boxes) < count:
        if shape == "rded-112":
            h = w = round((rng.uniform(0.08, 1) * height * width) ** 0.5)
        else:
            area, ratio = rng.uniform(0.5, 1) * height * width, np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
        if h <= height and w <= width:
            boxes.append((int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w))
    return Work(pictures, boxes, [i // 5 for i in range(count)], 112 if shape == "rded-112" else 224)


def crops_of(work: Work, itemsize: int, unit: str = "crop") -> floor.Work:
    """What the job of ``work`` must move and compute."""
    sizes = [picture.size for picture in work.pictures]
    return replace(jobs.crops(work.boxes, work.index, sizes, work.side, itemsize), unit=unit)


def make_picture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth like a photograph, so that resizing methods agree where they should, with some sensor noise."""
    coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 12, 16)))
    smooth = F.interpolate(coarse, size=(height, width), mode="bicubic")[0].permute(1, 2, 0).numpy()
    return np.clip(smooth + rng.normal(0, 3, smooth.shape), 0, 255).astype(np.uint8)


def _crops(work: Work) -> list[np.ndarray]:
    boxes = zip(work.index, work.boxes, strict=True)
    return [work.pictures[i][top : top + h, left : left + w] for i, (top, left, h, w) in boxes]


def _normalised(small: np.ndarray) -> Tensor:
    return torch.from_numpy(small).permute(2, 0, 1).contiguous().float().div_(255).sub_(_MEAN).div_(_STD)


def torch_float(work: Work) -> Tensor:
    """What RDED's transforms do to each crop once the picture is a float tensor."""
    size = (work.side, work.side)
    out = []
    for crop in _crops(work):
        chw = torch.from_numpy(crop).permute(2, 0, 1).contiguous().float().div_(255)[None]
        small = F.interpolate(chw, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        out.append(small.sub_(_MEAN).div_(_STD))
    return torch.stack(out)


def torch_uint8(work: Work) -> Tensor:
    """torchvision v2's path for uint8 tensors: the channels_last uint8 kernel, then normalisation."""
    size = (work.side, work.side)
    out = []
    for crop in _crops(work):
        chw = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None]
        small = F.interpolate(chw, size=size, mode="bilinear", antialias=True, align_corners=False)[0]
        out.append(small.contiguous().float().div_(255).sub_(_MEAN).div_(_STD))
    return torch.stack(out)


def fast_image_resize(work: Work) -> Tensor:
    """cykooz-resizer (Rust fast_image_resize), bilinear convolution on bytes with a crop box.

    Its interface copies each picture once, which is part of its time.
    """
    import cykooz_resizer as fir

    images = [fir.ImageData(p.shape[1], p.shape[0], fir.PixelType.U8x3, p.tobytes()) for p in work.pictures]
    resizer, side = fir.Resizer(), work.side
    out = []
    for image, (top, left, h, w) in zip(work.index, work.boxes, strict=True):
        target = fir.ImageData(side, side, fir.PixelType.U8x3)
        options = fir.ResizeOptions(fir.ResizeAlg.convolution(fir.FilterType.bilinear))
        options.crop_box = fir.CropBox(left, top, w, h)
        resizer.resize(images[image], target, options)
        out.append(_normalised(np.frombuffer(target.get_buffer(), np.uint8).reshape(side, side, 3).copy()))
    return torch.stack(out)


def opencv_area(work: Work) -> Tensor:
    """OpenCV's INTER_AREA, a box filter on bytes: other values, the usual fast substitute."""
    import cv2

    cv2.setNumThreads(1)
    side = (work.side, work.side)
    return torch.stack([_normalised(cv2.resize(crop, side, interpolation=cv2.INTER_AREA)) for crop in _crops(work)])


# name -> (function, module it needs, largest mean difference from the float definition in grey levels)
RIVALS: dict[str, tuple[Callable[[Work], Tensor], str, float]] = {
    "torch-float": (torch_float, "torch", 1e-3),
    "torch-uint8": (torch_uint8, "torch", 1.0),
    "fast_image_resize": (fast_image_resize, "cykooz_resizer", 1.0),
    "opencv-area": (opencv_area, "cv2", 4.0),
}


def check(name: str, got: Tensor, wanted: Tensor, levels: float) -> None:
    """Refuses to report a figure of something that computes something else."""
    error = float((got - wanted).abs().mean()) / LEVEL
    if not error <= levels:
        raise AssertionError(f"{name}: mean difference {error:.3g} grey levels, allowed {levels}")


def interleaved(cases: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Least CPU seconds of each case; the cases take turns, because the clock of shared machines drifts."""
    best = dict.fromkeys(cases, float("inf"))
    for _ in range(rounds):
        for name, run in cases.items():
            start = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - start)
    return best
