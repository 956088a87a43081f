"""Small cases of the CPU ops and of the Python around them. A case is built once and called many times.

They import nothing of the benchmarks: the revision under test may have others. One that a revision lacks is skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Run = Callable[[], Any]


def _ragged(count: int) -> tuple[torch.Tensor, ...]:
    """Two pictures of 375 x 500 and square boxes of 100 to 370 pixels in them."""
    rng = np.random.default_rng(0)
    height, width = 375, 500
    pixels = torch.from_numpy(rng.integers(0, 256, 2 * height * width * 3, dtype=np.uint8))
    offsets = torch.tensor([0, height * width * 3])
    sizes = torch.tensor([[height, width]] * 2, dtype=torch.int32)
    sides = np.linspace(100, 370, count).astype(np.int32)
    boxes = torch.from_numpy(np.stack([(height - sides) // 2, (width - sides) // 2, sides, sides], 1))
    return pixels, offsets, sizes, boxes, torch.arange(count, dtype=torch.int32) % 2


def multi_crop_112() -> Run:
    from ddfast.ops import multi_crop

    work, out = _ragged(6), torch.empty(6, 3, 112, 112)
    return lambda: multi_crop(*work, size=(112, 112), mean=MEAN, std=STD, out=out, validate=False)


def multi_crop_224_bf16() -> Run:
    from ddfast.ops import multi_crop

    work = _ragged(4)
    out = torch.empty(4, 3, 224, 224, dtype=torch.bfloat16, memory_format=torch.channels_last)
    return lambda: multi_crop(*work, size=(224, 224), mean=MEAN, std=STD, out=out)


def mosaic() -> Run:
    from ddfast.ops import mosaic as op

    work = _ragged(4)
    return lambda: op(*work, size=224, factor=2)


def _scores(n: int, classes: int) -> Run:
    from ddfast.ops import crop_score

    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, 5, classes, generator=generator)
    labels = torch.randint(0, classes, (n,), generator=generator)
    return lambda: crop_score(logits, labels)


def crop_score_1000() -> Run:
    return _scores(32, 1000)


def crop_score_10() -> Run:
    return _scores(64, 10)


def _topk(classes: int, kept: int, samples: int) -> Run:
    from ddfast.ops import class_topk, empty_topk

    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(samples, generator=generator)
    labels = torch.randint(0, classes, (samples,), generator=generator)
    table = class_topk(scores, labels, torch.arange(samples), *empty_topk(classes, kept))
    keys = samples + torch.arange(samples)
    return lambda: class_topk(scores, labels, keys, *table)


def class_topk_many() -> Run:
    return _topk(200, 40, 1024)


def class_topk_long() -> Run:
    return _topk(10, 500, 1024)


def draw_boxes() -> Run:
    from ddfast.data import draw_rrc_boxes

    positions, sizes = np.arange(64), np.tile(np.array([[375, 500]], np.int32), (64, 1))
    return lambda: draw_rrc_boxes(0, 3, positions, sizes, 5)


CASES: dict[str, Callable[[], Run]] = {
    build.__name__: build
    for build in (
        multi_crop_112, multi_crop_224_bf16, mosaic, crop_score_1000, crop_score_10, class_topk_many, class_topk_long,
        draw_boxes,
    )
}  # fmt: skip
