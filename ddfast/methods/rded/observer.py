"""The observer of a run matched to the source's classes, and checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast import ops
from ddfast.data import DecodeError, Source, Stream
from ddfast.methods._options import RunOptions
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer

_CHECK_IMAGES = 128
_CHECK_PER_CLASS = 8


@dataclass(frozen=True)
class Prepared:
    """The observer, its output index for each class of the source, and what the class-order check found."""

    observer: Observer
    targets: tuple[int, ...]
    class_check: dict[str, Any]


def prepare_observer(source: Source, stream: Stream, options: RunOptions, observer: Observer) -> Prepared:
    """Makes sure that the observer's outputs mean the source's classes.

    Raises:
        ValueError: a class order that does not match.
    """
    targets = tuple(map_classes(source.class_names, observer.num_classes, observer.class_names).tolist())
    if observer.random_weights or not options.check_classes:
        why = "random weights" if observer.random_weights else "switched off"
        return Prepared(observer, targets, {"skipped": why})
    logits, labels = _look(source, stream, observer, options.torch_device())
    from ddfast.nets.class_order import check_class_order

    report = check_class_order(logits, labels, source.class_names, outputs=targets, observer_names=observer.class_names)
    found = {"top1": round(float(report.agreement), 4), "images": len(labels), "judged": report.judged}
    return Prepared(observer, targets, found)


def _look(source: Source, stream: Stream, observer: Observer, device: str) -> tuple[Tensor, Tensor]:
    """Logits [n, all outputs] and labels of a few centre-cropped pictures of some classes."""
    count = len(source.class_names)
    labels = np.unique(np.linspace(0, count - 1, min(count, _CHECK_IMAGES // 2)).round().astype(np.int64))
    each = min(_CHECK_PER_CLASS, max(2, _CHECK_IMAGES // len(labels)))
    logits, truth = [], []
    module = observer.module.to(device)
    for label in labels.tolist():
        positions = np.linspace(0, source.count(label) - 1, min(each, source.count(label))).round().astype(np.int64)
        crops = [c for p in np.unique(positions) if (c := _centre(source, stream, label, p, observer)) is not None]
        if not crops:
            continue
        with torch.inference_mode():
            logits.append(module(torch.cat(crops).to(device)).float().cpu())
        truth += [label] * len(crops)
    if not truth:
        raise ValueError(f"{source.name}: not one readable picture among {len(labels)} classes looked at")
    return torch.cat(logits), torch.tensor(truth)


def _centre(source: Source, stream: Stream, label: int, position: int, observer: Observer) -> Tensor | None:
    try:
        image = stream.decode(source, label, np.array([position]))
    except DecodeError:
        return None
    height, width = image.sizes[0].tolist()
    side = min(height, width)
    box = torch.tensor([[(height - side) // 2, (width - side) // 2, side, side]], dtype=torch.int32)
    patch: Tensor = ops.multi_crop(
        image.pixels, image.offsets, image.sizes, box, torch.zeros(1, dtype=torch.int32),
        size=(observer.input_size, observer.input_size), mean=observer.normalization.mean,
        std=observer.normalization.std,
    )  # fmt: skip
    return patch
