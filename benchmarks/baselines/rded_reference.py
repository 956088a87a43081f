"""Plain transcription of RDED's synthesis, stage by stage and draw by draw, as the authors' program runs it.

Paper: Sun, Shi, Yu, Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm", CVPR 2024, arXiv 2312.03526. Written from a description of the behaviour; nothing of ddfast is used, so this
is both the baseline of the benchmarks and the oracle of the byte-exact parity mode.

What is kept although it is slow or odd: file-system order and Python's shuffle, one loader batch per class, full-image
float conversion, five separate float resizes, crop-major copies, a zero-padded canvas, NCHW fp32 forwards in batches of
one crop per image, softmax then gather then log, truncation to uint8, Pillow's default JPEG.

Two things are left open on purpose and one is pinned. Open: ``mean`` and ``std`` are arguments (the original always
takes ImageNet's) and folders may have any names (label = position in sorted order). Pinned: tied losses are ranked by
position; the original leaves ties to an unstable sort, of which this is one possible outcome.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import functional as TF

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
Box = tuple[int, int, int, int]
STAGES = ("setup", "load", "forward", "select", "save")


@dataclass(frozen=True)
class Chosen:
    """One patch that made it into an output image; ``box`` is (top, left, height, width) in source pixels."""

    label: int
    rank: int
    path: str
    crop: int
    box: Box
    score: float
    image: int
    cell: int


@dataclass(frozen=True)
class Draw:
    """Files of one class and the crop boxes of each, for runs that must not draw their own."""

    paths: list[str]
    boxes: list[list[Box]]


@dataclass(frozen=True)
class ReferenceRun:
    """Chosen patches in (label, rank) order, written files in (label, image) order, wall seconds per stage."""

    chosen: list[Chosen]
    files: list[Path]
    timings: dict[str, float]


class ClassPool(Dataset[tuple[Tensor, int, Tensor, int]]):
    """First ``mipc`` files of every shuffled class folder; an item is all crops of one image."""

    def __init__(
        self,
        train_dir: Path,
        nclass: int,
        mipc: int,
        num_crop: int,
        side: int,
        normalize: transforms.Normalize,
        draws: Sequence[Draw] | None = None,
    ) -> None:
        self.paths: list[str] = []
        self.labels: list[int] = []
        self.drawn: list[list[Box]] | None = None
        self.num_crop, self.side, self.normalize = num_crop, side, normalize
        if draws is not None:
            self.paths = [path for draw in draws for path in draw.paths]
            self.labels = [label for label, draw in enumerate(draws) for _ in draw.paths]
            self.drawn = [boxes for draw in draws for boxes in draw.boxes]
            return
        folders = sorted(entry.name for entry in os.scandir(train_dir) if entry.is_dir())
        if len(folders) < nclass:
            raise ValueError(f"nclass: got {nclass}, but {train_dir} has {len(folders)} class folders")
        for label, folder in enumerate(folders[:nclass]):
            names = os.listdir(train_dir / folder)
            random.shuffle(names)
            for position in range(mipc):
                self.paths.append(str(train_dir / folder / names[position]))  # IndexError on a short class, as there
                self.labels.append(label)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int, Tensor, int]:
        with open(self.paths[index], "rb") as file:
            picture = Image.open(file).convert("RGB")
        image = transforms.ToTensor()(picture)
        crop = transforms.RandomResizedCrop(self.side, scale=(0.08, 1.0), ratio=(1.0, 1.0), antialias=True)
        crops, boxes = [], []
        for number in range(self.num_crop):  # the two halves of the transform, so that its box can be kept
            box = self.drawn[index][number] if self.drawn else crop.get_params(image, crop.scale, crop.ratio)
            crops.append(TF.resized_crop(image, *box, crop.size, crop.interpolation, antialias=crop.antialias))
            boxes.append(box)
        return self.normalize(torch.stack(crops)), self.labels[index], torch.tensor(boxes, dtype=torch.int32), index


def pad_to(patches: Tensor, size: int) -> Tensor:
    """Zero canvas of ``size`` around patches [n, 3, s, s]; the odd pixel goes right and below."""
    before = (size - patches.shape[-1]) // 2
    after = size - patches.shape[-1] - before
    return nn.functional.pad(patches, (before, after, before, after))


def literal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy [n] as softmax, gather, log: exactly -0.0 for confident logits, +inf for hopeless ones."""
    return -torch.log(torch.gather(torch.softmax(logits, dim=1), 1, labels[:, None])).squeeze(1)


def mosaic(patches: Tensor, ipc: int, size: int, factor: int) -> Tensor:
    """Tile ranked patches [ipc*factor**2, 3, s, s]: cell k of image j holds rank k*ipc + j."""
    out = torch.zeros(ipc, 3, size, size)
    side, rest = divmod(size, factor)
    lengths = [side + 1 if index < rest else side for index in range(factor)]
    starts = [sum(lengths[:index]) for index in range(factor)]
    for row in range(factor):
        for column in range(factor):
            cell = row * factor + column
            tile = patches[cell * ipc : (cell + 1) * ipc]
            tile = nn.functional.interpolate(tile, size=(lengths[row], lengths[column]))
            rows = slice(starts[row], starts[row] + lengths[row])
            out[:, :, rows, starts[column] : starts[column] + lengths[column]] = tile
    return out


def to_uint8(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Undo the normalisation in two float32 steps and truncate; [n, 3, S, S] -> uint8 [n, S, S, 3]."""
    images = transforms.Normalize((0.0, 0.0, 0.0), [1 / value for value in std])(images)
    images = transforms.Normalize([-value for value in mean], (1.0, 1.0, 1.0))(images)
    return (images.numpy().transpose(0, 2, 3, 1) * 255).astype(np.uint8)


def save_class(pixels: np.ndarray, out_dir: Path, label: int) -> list[Path]:
    """Write uint8 [ipc, S, S, 3] as Pillow's default JPEG (quality 75, 4:2:0) under the original's names."""
    folder = out_dir / f"{label:05d}"
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"class{label:05d}_id{index:05d}.jpg" for index in range(len(pixels))]
    for file, picture in zip(files, pixels, strict=True):
        Image.fromarray(picture).save(file)
    return files


@contextmanager
def _timed(timings: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings[stage] += time.perf_counter() - start


def _score(observer: nn.Module, crops: Tensor, labels: Tensor, size: int) -> Tensor:
    """Losses [num_crop, mipc] of crops [mipc, num_crop, 3, s, s]: one forward per crop number."""
    images, number = crops.shape[:2]
    flat = pad_to(crops.permute(1, 0, 2, 3, 4).reshape(-1, *crops.shape[2:]), size)
    with torch.no_grad():
        losses = [literal_loss(observer(batch), labels) for batch in flat.split(images)]
    return torch.cat(losses).reshape(number, images)


def distill(
    train_dir: str | Path,
    observer: nn.Module | Callable[[], nn.Module],
    out_dir: str | Path,
    *,
    nclass: int,
    ipc: int,
    mipc: int = 300,
    num_crop: int = 5,
    size: int = 224,
    factor: int = 2,
    workers: int = 0,
    seed: int | None = None,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    draws: Sequence[Draw] | None = None,
) -> ReferenceRun:
    """Distil ``nclass`` class folders of ``train_dir`` into ``ipc`` images a class under ``out_dir``.

    ``observer`` maps normalised float32 [n, 3, size, size] to logits [n, >= nclass]; a callable is called after
    seeding, because building a net draws from the generator that later draws the crops. With ``seed`` the order of
    consumption is: Python and torch seeded, observer, one shuffle per class, the loader's base seed, crops in image
    order (per worker process). ``draws`` replaces the random choices by given ones (each class ``mipc`` files), so that
    another implementation can be compared on the same crops.
    """
    timings = dict.fromkeys(STAGES, 0.0)
    with _timed(timings, "setup"):
        if seed is not None:
            random.seed(seed)
            torch.manual_seed(seed)
        net = (observer if isinstance(observer, nn.Module) else observer()).eval()
        normalize = transforms.Normalize(mean, std)
        pool = ClassPool(Path(train_dir), nclass, mipc, num_crop, size // factor, normalize, draws)
        batches = iter(DataLoader(pool, batch_size=mipc, shuffle=False, num_workers=workers))
    chosen: list[Chosen] = []
    files: list[Path] = []
    for label in range(nclass):
        with _timed(timings, "load"):
            crops, labels, boxes, indices = next(batches)
        with _timed(timings, "forward"):
            losses = _score(net, crops, labels, size)
        with _timed(timings, "select"):
            best = losses.argmin(dim=0)
            rows = torch.arange(len(best))
            best_loss = losses[best, rows]
            ranked = torch.argsort(best_loss, stable=True)[: ipc * factor**2]
            pixels = to_uint8(mosaic(crops[rows, best][ranked], ipc, size, factor), mean, std)
        with _timed(timings, "save"):
            files += save_class(pixels, Path(out_dir), label)
        for rank, row in enumerate(ranked.tolist()):
            crop = int(best[row])
            top, left, height, width = boxes[row, crop].tolist()
            path = pool.paths[int(indices[row])]
            box = (top, left, height, width)
            chosen.append(Chosen(label, rank, path, crop, box, float(best_loss[row]), rank % ipc, rank // ipc))
    return ReferenceRun(chosen, files, timings)
