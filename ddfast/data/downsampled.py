"""ImageNet at 64 x 64, 32 x 32 or 16 x 16 pixels (Chrabaszcz et al., arXiv 1707.08819), from its ``.npz`` files."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import read_lines
from ddfast.data.arrays import ArraySource
from ddfast.data.npz import NPZ_DAMAGE, check_npz

_TRAIN = tuple(f"train_data_batch_{number}" for number in range(1, 11))
_FILES = {"train": _TRAIN, "val": ("val_data",)}
_CLASSES = "map_clsloc.txt"
_WORDNET = re.compile(r"n\d{8}")


def is_downsampled(folder: Path) -> bool:
    """Whether ``folder`` holds the first or the validation file, as ``.npz`` or pickled."""
    return any((folder / f"{name}{end}").is_file() for name in (_TRAIN[0], "val_data") for end in (".npz", ""))


def open_downsampled(folder: Path, split: str = "train") -> ArraySource:
    """Opens ``train_data_batch_1.npz`` to ``_10.npz``, or ``val_data.npz``, all into memory (16 GB at 64 pixels).

    The order of the labels is not that of sorted WordNet ids, so ``map_clsloc.txt`` of the authors' scripts must lie
    beside the files or one level up; labels keep its order, and classes are named by WordNet id.

    Args:
        folder: the folder with the files.
        split: "train" or "val".

    Raises:
        ValueError: unknown split, files of other contents, pickled ones, or no class list.
        FileNotFoundError: a file is missing.
    """
    if split not in _FILES:
        raise ValueError(f"split: got {split!r}, expected 'train' or 'val' for downsampled ImageNet")
    paths = [folder / f"{name}.npz" for name in _FILES[split]]
    for path in paths:
        if path.is_file():
            continue
        if path.with_suffix("").is_file():
            raise ValueError(
                f"{path.with_suffix('')}: is pickled, which could run code and is not read; fetch the form of .npz "
                "files, or convert one that you trust by numpy.savez(FILE, data=..., labels=...)"
            )
        more = f" to {paths[-1].name}" if len(paths) > 1 else ""
        raise FileNotFoundError(f"{path}: is missing, expected {paths[0].name}{more} in one folder")
    classes = _class_names(folder)
    parts = [_labels(path, len(classes)) for path in paths]
    images, begin = np.empty((0, 0, 0, 3), np.uint8), 0
    for path, labels in zip(paths, parts, strict=True):
        planes = _planes(path, len(labels))
        side = planes.shape[-1]
        if not begin:
            images = np.empty((sum(map(len, parts)), side, side, 3), np.uint8)
        if side != images.shape[1]:
            raise ValueError(f"{path}: has pictures of side {side}, expected {images.shape[1]} as in {paths[0].name}")
        images[begin : begin + len(labels)] = planes.transpose(0, 2, 3, 1)
        begin += len(labels)
    name = f"imagenet{images.shape[1]}"
    return ArraySource(
        images, np.concatenate(parts), classes, name=name if split == "train" else f"{name}:{split}"
    )  # fmt: skip


def _labels(path: Path, classes: int) -> NDArray[np.int64]:
    labels = _member(path, "labels")
    if labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: labels: got {labels.dtype} {list(labels.shape)}, expected a list of integers")
    if not 1 <= int(labels.min()) <= int(labels.max()) <= classes:
        raise ValueError(
            f"{path}: labels: got {labels.min()} to {labels.max()}, expected 1 to {classes} as in {_CLASSES}"
        )
    return labels.astype(np.int64) - 1


def _planes(path: Path, count: int) -> NDArray[np.uint8]:
    """uint8 [N, 3, S, S]."""
    data = _member(path, "data")
    side = math.isqrt(data.shape[1] // 3) if data.ndim == 2 else 0
    if data.dtype != np.uint8 or data.shape != (count, 3 * side * side) or not side:
        raise ValueError(
            f"{path}: data: got {data.dtype} {list(data.shape)}, expected uint8 [{count}, 3 x side x side]; "
            "is it cut short?"
        )
    return data.reshape(count, 3, side, side)


def _member(path: Path, key: str) -> NDArray[Any]:
    try:
        check_npz(path)
        with np.load(path, allow_pickle=False) as archive:
            return np.asarray(archive[key])
    except OSError:
        raise
    except NPZ_DAMAGE as error:
        raise ValueError(f"{path}: has no array {key!r}, or is damaged ({error})") from error


def _class_names(folder: Path) -> tuple[str, ...]:
    path = next((place / _CLASSES for place in (folder, folder.parent) if (place / _CLASSES).is_file()), None)
    if path is None:
        raise ValueError(
            f"{folder}: has no {_CLASSES} beside its files, and without it nobody can say what a label means: the "
            "order is not that of sorted WordNet ids; take the file from the scripts of the data's authors "
            "(PatrykChrabaszcz/Imagenet32_Scripts)"
        )
    names: dict[int, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        words = line.split()
        if not words:
            continue
        if len(words) < 2 or not _WORDNET.fullmatch(words[0]) or not re.fullmatch(r"[1-9]\d{0,5}", words[1]):
            raise ValueError(f"{path}: line {number} is {line[:80]!r}, expected: WordNet id, number, name")
        if names.setdefault(int(words[1]), words[0]) != words[0]:
            raise ValueError(f"{path}: line {number} gives {words[1]} to a second class")
    if sorted(names) != list(range(1, len(names) + 1)) or len(set(names.values())) != len(names):
        raise ValueError(f"{path}: numbers {len(names)} classes with gaps or twice, expected 1 to their count")
    return tuple(names[number] for number in sorted(names))
