"""MNIST, FashionMNIST and others in their layout: IDX files, as torchvision downloads them."""

from __future__ import annotations

import gzip
import io
import math
import re
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import read_bytes
from ddfast.data.arrays import ArraySource
from ddfast.data.folder import SourceWarning

_LARGEST = 1 << 28
_UINT8 = 8  # IDX's code of the type
_FILES = {"train": "train", "test": "t10k"}
_FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_SETS = ("MNIST", "FashionMNIST", "KMNIST", "QMNIST")


def find_idx(folder: Path) -> Path | None:
    """Where the files ``train-images-idx3-ubyte`` or ``t10k-images-idx3-ubyte`` (or ``.gz``) are: in ``folder``, in
    its ``raw``, or in torchvision's ``MNIST/raw`` ...

    Raises:
        ValueError: there are several such sets.
    """
    for place in (folder, folder / "raw"):
        if _holds(place):
            return place
    found = [name for name in _SETS if _holds(folder / name / "raw")]
    if len(found) > 1:
        raise ValueError(f"{folder}: holds {' and '.join(found)}, expected one; name {folder / found[0]}")
    return folder / found[0] / "raw" if found else None


def open_idx(place: Path, split: str = "train") -> ArraySource:
    """Opens the pictures and labels of a split.

    The files say nothing of what they show, so the folder's name does (that of the one above where it is ``raw``):
    with the word "fashion" or "FashionMNIST" in it FashionMNIST, with "mnist", "kmnist" or "qmnist" that one.

    Args:
        place: the folder with the files, from `find_idx`.
        split: "train" or "test".

    Raises:
        ValueError: unknown split, or a file that is no IDX file of bytes, cut short, or does not fit the other.
        FileNotFoundError: a file is missing.
    """
    if split not in _FILES:
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test' for {place}")
    images = _read(place, f"{_FILES[split]}-images-idx3-ubyte", 3)
    labels = _read(place, f"{_FILES[split]}-labels-idx1-ubyte", 1)
    if len(images) != len(labels):
        raise ValueError(f"{place}: holds {len(images)} pictures and {len(labels)} labels, expected as many")
    name, classes = _called(place)
    if labels.size and int(labels.max()) >= len(classes):
        raise ValueError(f"{place}: has the label {labels.max()}, expected 0 to {len(classes) - 1}")
    return ArraySource(images, labels, classes, name=name if split == "train" else f"{name}:{split}")


def _called(place: Path) -> tuple[str, tuple[str, ...]]:
    real = place.resolve()
    folder = real.parent.name if real.name == "raw" else real.name
    digits = tuple(str(digit) for digit in range(10))
    words = re.split(r"[-_ .]+", folder.lower())
    if not {"fashionmnist", "fashion", "fmnist"}.isdisjoint(words):
        return "fashionmnist", _FASHION
    if known := [name for name in ("kmnist", "qmnist", "mnist") if name in words]:
        return known[0], digits
    warnings.warn(
        f"{place}: MNIST and FashionMNIST have files of the same names; to get the constants and names of one, call "
        f"the folder mnist or fashionmnist instead of {folder!r}",
        SourceWarning, stacklevel=3,
    )  # fmt: skip
    return folder, digits


def _holds(place: Path) -> bool:
    return any(_file(place, f"{part}-images-idx3-ubyte") is not None for part in _FILES.values())


def _file(place: Path, name: str) -> Path | None:
    return next((path for path in (place / name, place / f"{name}.gz") if path.is_file()), None)


def _read(place: Path, name: str, dimensions: int) -> NDArray[np.uint8]:
    path = _file(place, name)
    if path is None:
        raise FileNotFoundError(f"{place / name}: is missing, as is {name}.gz; fetch the set again")
    data = read_bytes(path, _LARGEST)
    if path.suffix == ".gz":
        try:
            data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_LARGEST + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{path}: cannot be unpacked ({error}); fetch it again") from error
        if len(data) > _LARGEST:
            raise ValueError(f"{path}: unpacks to more than {_LARGEST} bytes, expected an IDX file of bytes")
    begin = 4 + 4 * dimensions
    if len(data) < begin or data[:4] != bytes((0, 0, _UINT8, dimensions)):
        raise ValueError(
            f"{path}: begins with {data[:4].hex(' ') or 'nothing'}, expected 00 00 08 0{dimensions}, an IDX file of "
            f"bytes with {dimensions} dimensions"
        )
    shape = tuple(int(side) for side in np.frombuffer(data, ">u4", dimensions, 4))
    if len(data) != begin + math.prod(shape):
        raise ValueError(
            f"{path}: has {len(data) - begin} bytes, expected {math.prod(shape)} for {list(shape)}; is it cut short?"
        )
    return np.frombuffer(data, np.uint8, offset=begin).reshape(shape)
