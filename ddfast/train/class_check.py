"""Whether a network's outputs mean the classes that it is asked for, looked at on some real pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ddfast import ops
from ddfast.data import DecodeError, Source, Stream, open_stream
from ddfast.nets.class_order import ClassOrderError, ClassOrderReport, check_class_order
from ddfast.nets.classes import match_classes
from ddfast.nets.observers import Observer

IMAGES = 128
"""Pictures that are looked at, at most, of eight a class or fewer."""
_PER_CLASS = 8


def look(
    source: Source, stream: Stream, observer: Observer, device: str | torch.device, *,
    size: tuple[int, int] | None = None, classes: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What an observer says of a few centre-cropped pictures of some classes.

    Args:
        source: the pictures.
        stream: decodes them.
        observer: moved to ``device``.
        device: where it runs.
        size: (height, width) in pixels that it is shown; None for its input size.
        classes: labels of the source that are looked at; None for all.

    Returns:
        Logits float32 [n, all outputs], and for each picture the place in ``classes``, int64 [n].

    Raises:
        ValueError: not one picture can be read.
    """
    wanted = range(len(source.class_names)) if classes is None else classes
    shown = size or (observer.input_size, observer.input_size)
    places = np.unique(np.linspace(0, len(wanted) - 1, min(len(wanted), IMAGES // 2)).round().astype(np.int64))
    each = min(_PER_CLASS, max(2, IMAGES // len(places)))
    logits, truth = [], []
    module = observer.module.to(device)
    for place in places.tolist():
        label = wanted[place]
        positions = np.linspace(0, source.count(label) - 1, min(each, source.count(label))).round().astype(np.int64)
        read = (_centre(source, stream, label, p, observer, shown) for p in np.unique(positions))
        crops = [crop for crop in read if crop is not None]
        if not crops:
            continue
        with torch.inference_mode():
            logits.append(module(torch.cat(crops).to(device)).float().cpu())
        truth += [place] * len(crops)
    if not truth:
        raise ValueError(f"{source.name}: not one readable picture among {len(places)} classes looked at")
    return torch.cat(logits), torch.tensor(truth)


def check_teacher(
    observer: Observer, outputs: Sequence[int], class_names: Sequence[str], source: Source, *, size: tuple[int, int],
    device: str | torch.device = "cpu",
) -> ClassOrderReport | None:  # fmt: skip
    """Refuses a teacher whose outputs plainly mean other classes than those of the set.

    Args:
        observer: the teacher, in eval mode; moved to ``device``. Random weights are not looked at.
        outputs: its output of each class of the set.
        class_names: of the set.
        source: real pictures of these classes.
        size: (height, width) of the pictures that it is shown.
        device: where it runs.

    Returns:
        What was found; None for random weights.

    Raises:
        ClassOrderError: another order explains what it says at least twice as well (see
            `ddfast.nets.class_order.check_class_order`).
        ValueError: the source lacks classes of the set, or not one picture can be read.
    """
    if observer.random_weights:
        return None
    classes = match_classes(class_names, source.class_names, f"data {source.name}")
    stream = open_stream("threads", workers=0)
    try:
        logits, labels = look(source, stream, observer, device, size=size, classes=classes)
    finally:
        stream.close()
    try:
        return check_class_order(logits, labels, class_names, outputs=outputs, observer_names=observer.class_names)
    except ClassOrderError as error:
        raise ClassOrderError(
            f"teacher: {observer.name}, looked at on pictures of {source.name}: {error} check_classes=False "
            "(--no-check-classes) leaves this check out.",
            error.report,
        ) from None


def _centre(
    source: Source, stream: Stream, label: int, position: int, observer: Observer, size: tuple[int, int]
) -> Tensor | None:
    try:
        image = stream.decode(source, label, np.array([position]))
    except DecodeError:
        return None
    height, width = image.sizes[0].tolist()
    side = min(height, width)
    box = torch.tensor([[(height - side) // 2, (width - side) // 2, side, side]], dtype=torch.int32)
    patch: Tensor = ops.multi_crop(
        image.pixels, image.offsets, image.sizes, box, torch.zeros(1, dtype=torch.int32),
        size=size, mean=observer.normalization.mean, std=observer.normalization.std,
    )  # fmt: skip
    return patch
