"""Random views of training batches, drawn from counters, so that any of them can be made again from its number.

A sample's own draws (strips, box, flip, shift) are keyed by (seed, epoch, sample number) and depend neither on the
batch nor on the order; the batch's draws (partners, mixing box, share) are keyed by (seed, epoch, step). The same
config, picture size, seed, epoch, step and index give the same views anywhere, so a store of soft labels need not keep
them.

Words of a sample's draw (stream ``"views"``, see ddfast.runs.seeds): 0 flip, 1-2 shift, 4-5 place of the box, 6-25
area and aspect of ten attempts at a box, from 28 one for each vertical and each horizontal strip. Of a batch's
(``"views/mix"``): 0-1 centre of the mixing box, 2-99 two Gamma variables, from 104 four for each partner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddfast.runs import seeds

MIXES = ("none", "cutmix", "mixup")
ATTEMPTS = 10  # at a box, as torchvision's RandomResizedCrop makes them
_CROP, _STRIPS = 4, 28  # first words of the box and of the strips
_GAMMA = 49  # words of a Gamma variable: one, and three for each of 16 attempts that succeed with 0.95 or more
_PARTNERS = 26  # first block of the partners


@dataclass(frozen=True)
class ViewConfig:
    """What a training view is; part of every label store's fingerprint.

    ``size`` is (height, width) of a view in pixels. ``factor`` shuffles factor x factor strips. ``scale`` is the range
    of area shares of a random resized crop and ``ratio`` that of its aspects (width / height); None takes the whole
    picture. ``shift`` moves the picture by up to so many pixels, zeros move in. ``mix`` is ``"none"``, ``"cutmix"`` or
    ``"mixup"``, with the share of the own view drawn from Beta(alpha, alpha).

    Raises:
        ValueError: a value out of range.
    """

    size: tuple[int, int]
    factor: int = 1
    scale: tuple[float, float] | None = None
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    shift: int = 0
    mix: str = "none"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"size: got {self.size!r}, expected (height, width) of at least one pixel")
        if self.factor < 1:
            raise ValueError(f"factor: got {self.factor!r}, expected 1 or more")
        for name, span in (("scale", self.scale), ("ratio", self.ratio)):
            if span is not None and not (len(span) == 2 and 0 < span[0] <= span[1] < math.inf):
                raise ValueError(f"{name}: got {span!r}, expected (low, high) with 0 < low <= high")
        if self.shift < 0:
            raise ValueError(f"shift: got {self.shift!r}, expected a number of pixels, 0 or more")
        if self.mix not in MIXES:
            raise ValueError(f"mix: got {self.mix!r}, expected one of {', '.join(MIXES)}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha: got {self.alpha!r}, expected a positive number (mix='none' switches mixing off)")


@dataclass
class Views:
    """Draws of one batch, the arguments of ``ddfast.ops.augment_batch`` in its order.

    Shapes, for n samples and factor f: ``index`` int64 [n]; ``columns``, ``rows`` int32 [n, f]; ``boxes`` int32 [n, 4]
    (top, left, height, width); ``flip`` bool [n]; ``shift`` int32 [n, 2] (down, right); ``partner`` int64 [n] (position
    within the batch); ``mix_box`` int32 [4]. ``share`` is the own part of a view, in [0, 1]: of its pixels with CutMix,
    of each pixel with mixup, 1 without mixing.
    """

    index: Tensor
    columns: Tensor
    rows: Tensor
    boxes: Tensor
    flip: Tensor
    shift: Tensor
    partner: Tensor
    mix_box: Tensor
    share: float

    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors, in order."""
        return (
            self.index, self.columns, self.rows, self.boxes, self.flip, self.shift, self.partner, self.mix_box,
        )  # fmt: skip

    def to(self, device: torch.device) -> Views:
        """The same on ``device``."""
        if self.index.device == device:
            return self
        names = [field.name for field in fields(self) if field.name != "share"]
        moved: dict[str, Any] = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **moved)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """Order of ``count`` samples in an epoch: int64 [count], each of 0 ... count - 1 once."""
    return torch.from_numpy(seeds.permutation(seed, "views/order", epoch, count))


def draw_views(
    config: ViewConfig, image_size: tuple[int, int], seed: int, epoch: int, step: int, index: ArrayLike | Tensor
) -> Views:
    """Draws of one batch.

    Boxes are distributed as torchvision's RandomResizedCrop draws them: up to ten attempts with an area share uniform
    in ``scale`` and an aspect log-uniform in ``ratio``, sides rounded half to even, accepted when they fit and placed
    uniformly; then the largest centred box within ``ratio``. The CutMix box is RDED's (Sun et al. 2024, arXiv
    2312.03526) and Yun et al.'s (arXiv 1905.04899): sides ``int(side * sqrt(1 - Beta(alpha, alpha)))``, centre uniform,
    clipped at the border; partners are a random permutation of the batch.

    Args:
        config: what to draw.
        image_size: (height, width) of the set's pictures in pixels; multiples of ``config.factor``.
        seed: any non-negative integer.
        epoch: from 0.
        step: of the epoch, from 0.
        index: sample numbers [n].

    Returns:
        The draws, on the CPU.

    Raises:
        ValueError: pictures that do not divide into strips, or a number that is negative.
        TypeError: ``index`` holds no integers.
    """
    height, width = image_size
    if height % config.factor or width % config.factor:
        raise ValueError(
            f"image_size: got {height}x{width} pixels, expected sides that are multiples of factor {config.factor}"
        )
    samples = np.asarray(index)
    if samples.dtype.kind not in "iu" or samples.ndim != 1 or samples.min(initial=0) < 0:
        kind = TypeError if samples.dtype.kind not in "iu" else ValueError
        raise kind(f"index: got {samples!r}, expected sample numbers [n], 0 or more")
    count, factor = len(samples), config.factor
    words = _STRIPS + 2 * factor if factor > 1 else _STRIPS if config.scale else 4
    bits = seeds.counter_words(seed, "views", epoch, samples, words=words)
    strips = np.zeros((count, 2, factor), dtype=np.int32)
    if factor > 1:
        strips[:] = bits[:, _STRIPS:].reshape(count, 2, factor).argsort(2, kind="stable")
    shift = _below(bits[:, 1:3], 2 * config.shift + 1) - config.shift
    views = Views(
        index=torch.from_numpy(samples.astype(np.int64)),
        columns=torch.from_numpy(strips[:, 0]),
        rows=torch.from_numpy(strips[:, 1]),
        boxes=torch.from_numpy(_boxes(config, height, width, bits)),
        flip=torch.from_numpy((bits[:, 0] < 1 << 31) & config.flip),
        shift=torch.from_numpy(shift.astype(np.int32)),
        partner=torch.arange(count),
        mix_box=torch.zeros(4, dtype=torch.int32),
        share=1.0,
    )
    return views if config.mix == "none" else _mixed(views, config, seed, epoch, step)


def _boxes(config: ViewConfig, height: int, width: int, bits: NDArray[np.uint32]) -> NDArray[np.int32]:
    if config.scale is None:
        return np.tile(np.array([0, 0, height, width], dtype=np.int32), (len(bits), 1))
    draws = _unit(bits[:, _CROP + 2 : _CROP + 2 + 2 * ATTEMPTS])
    area = height * width * (config.scale[0] + (config.scale[1] - config.scale[0]) * draws[:, 0::2])
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    aspect = np.exp(low + (high - low) * draws[:, 1::2])
    sides = np.rint(np.sqrt(np.stack([area / aspect, area * aspect], 2))).astype(np.int64)  # (height, width)
    picture = np.array([height, width])
    inside = (sides > 0) & (sides <= picture)
    fits: NDArray[np.bool_] = inside[..., 0] & inside[..., 1]
    accepted = fits.max(axis=1, initial=False)[:, None]
    chosen = np.where(accepted, sides[np.arange(len(bits)), fits.argmax(axis=1)], 0)
    place = _below(bits[:, _CROP : _CROP + 2], picture - chosen + 1)
    fallback = _largest(height, width, config.ratio)
    return np.where(accepted, np.concatenate([place, chosen], 1), fallback).astype(np.int32)


def _largest(height: int, width: int, ratio: tuple[float, float]) -> NDArray[np.int64]:
    """Centred box (top, left, height, width) of an aspect within ``ratio``."""
    high, wide = height, width
    if width / height < ratio[0]:
        high = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    return np.array([(height - high) // 2, (width - wide) // 2, high, wide])


def _mixed(views: Views, config: ViewConfig, seed: int, epoch: int, step: int) -> Views:
    count, (height, width) = len(views.index), config.size
    blocks = seeds.counter_words(seed, "views/mix", epoch, step, np.arange(_PARTNERS + count))
    words, keys = blocks[:_PARTNERS].reshape(-1), blocks[_PARTNERS:]
    order = (keys[:, 0].astype(np.uint64) << np.uint64(32)) | keys[:, 1]
    partner = torch.from_numpy(np.argsort(order, kind="stable").astype(np.int64))
    share = _beta(config.alpha, words[2 : 2 + 2 * _GAMMA])
    if config.mix == "mixup":
        return replace(views, partner=partner, share=share)
    centre = _below(words[:2], [height, width])
    (top, bottom), (left, right) = (
        _cut(side, int(at), math.sqrt(1 - share)) for side, at in zip((height, width), centre, strict=True)
    )
    box = torch.tensor([top, left, bottom - top, right - left], dtype=torch.int32)
    return replace(views, partner=partner, mix_box=box, share=1 - (bottom - top) * (right - left) / (height * width))


def _cut(side: int, centre: int, part: float) -> tuple[int, int]:
    half = int(side * part) // 2
    return max(centre - half, 0), min(centre + half, side)


def _beta(alpha: float, words: NDArray[np.uint32]) -> float:
    """Beta(alpha, alpha) as a share of two Gamma variables, in logarithms: those of a small alpha underflow."""
    first, second = (_log_gamma(alpha, part) for part in ((words + 0.5) * 2.0**-32).reshape(2, _GAMMA).tolist())
    return 1 / (1 + math.exp(min(max(second - first, -700), 700)))


def _log_gamma(alpha: float, uniform: list[float]) -> float:
    """Logarithm of a Gamma(alpha, 1) variable: Marsaglia and Tsang, ACM TOMS 26 (2000); for small alpha from
    Gamma(alpha + 1) * U**(1 / alpha)."""
    d = alpha + 1 - 1 / 3
    c = 1 / math.sqrt(9 * d)
    value = d
    for first, second, third in zip(uniform[1::3], uniform[2::3], uniform[3::3], strict=True):
        x = math.sqrt(-2 * math.log(first)) * math.cos(2 * math.pi * second)
        v = (1 + c * x) ** 3
        if v > 0 and math.log(third) < 0.5 * x * x + d - d * v + d * math.log(v):
            value = d * v
            break
    return math.log(value) + math.log(uniform[0]) / alpha


def _unit(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """Uniform in [0, 1)."""
    values: NDArray[np.float64] = words.astype(np.float64) * 2.0**-32
    return values


def _below(words: NDArray[np.uint32], limit: ArrayLike) -> NDArray[np.int64]:
    """Integers in [0, limit): floor(word * limit / 2**32); two of them differ in probability by at most 2**-32."""
    product = words.astype(np.uint64) * np.asarray(limit).astype(np.uint64)
    values: NDArray[np.int64] = (product >> np.uint64(32)).astype(np.int64)
    return values
