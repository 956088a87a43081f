"""SVHN's cropped digits as their authors ship them: ``train_32x32.mat`` and ``test_32x32.mat``."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import read_bytes
from ddfast.data.arrays import ArraySource

_SPLITS = ("train", "test")
_LARGEST = 1 << 30
_ANY, _RATIO = 1 << 26, 20  # photographs hardly shrink; a file of nothing but zeros to a thousandth
# of MATLAB's files of level 5: types of data elements, and of the numbers in them
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}


def find_svhn(folder: Path) -> Path | None:
    """The folder with ``train_32x32.mat`` or ``test_32x32.mat``: itself, or ``SVHN`` or ``svhn`` in it."""
    for place in (folder, folder / "SVHN", folder / "svhn"):
        if any((place / f"{split}_32x32.mat").is_file() for split in _SPLITS):
            return place
    return None


def open_svhn(place: Path, split: str = "train") -> ArraySource:
    """Opens SVHN's cropped digits, 32 x 32; the label of the digit 0, which the files call 10, is 0.

    Args:
        place: the folder with the files, from `find_svhn`.
        split: "train" or "test".

    Raises:
        ValueError: unknown split, or a file of other contents.
        FileNotFoundError: the split's file is missing.
    """
    if split not in _SPLITS:
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test' for SVHN")
    path = place / f"{split}_32x32.mat"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this part of SVHN is missing; fetch it again")
    data = read_bytes(path, _LARGEST)
    try:
        found = _arrays(data)
        images, labels = found["X"], found["y"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
            raise ValueError(f"X is {images.dtype} {list(images.shape)}, expected uint8 [32, 32, 3, N]")
        if labels.shape != (images.shape[3], 1) or not np.isin(labels, np.arange(1, 11)).all():
            raise ValueError(f"y is {list(labels.shape)}, expected [{images.shape[3]}, 1] of 1 to 10")
    except (ValueError, LookupError, struct.error, zlib.error) as error:
        raise ValueError(f"{path}: no file of SVHN, or a damaged one ({error}); fetch it again") from error
    digits = tuple(str(digit) for digit in range(10))
    return ArraySource(
        np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels[:, 0].astype(np.int64) % 10, digits,
        name="svhn" if split == "train" else f"svhn:{split}",
    )  # fmt: skip


def _arrays(data: bytes) -> dict[str, NDArray[Any]]:
    """``X`` and ``y`` of a MATLAB file of level 5.

    Raises:
        ValueError, LookupError, struct.error, zlib.error: it is none, or damaged.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or struct.unpack_from(f"{order}H", data, 124)[0] != 0x0100:
        raise ValueError("expected MATLAB's file format of level 5")
    found = {}
    for kind, content in _elements(memoryview(data)[128:], order):
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            limit = max(_ANY, _RATIO * len(content))
            whole = unpacker.decompress(content, limit)
            if not unpacker.eof:
                raise ValueError(f"an array is cut short, or unpacks to more than {limit} bytes")
            kind, content = next(_elements(memoryview(whole), order), (0, memoryview(b"")))
        parts = list(_elements(content, order)) if kind == _MATRIX else []
        name = bytes(parts[2][1]).decode("latin-1") if len(parts) > 3 else ""
        if name in ("X", "y"):
            sides = np.frombuffer(parts[1][1], f"{order}i4").tolist()
            numbers = np.frombuffer(parts[3][1], f"{order}{_NUMBERS[parts[3][0]]}")
            found[name] = numbers.reshape(sides, order="F")
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Types and contents of the data elements that follow one another; small ones stand in their tag."""
    place = 0
    while place < len(data):
        kind, size = struct.unpack_from(f"{order}2I", data, place)
        begin = place + 8
        if kind >> 16:
            kind, size, begin = kind & 0xFFFF, kind >> 16, place + 4
        content = data[begin : begin + size]
        if len(content) < size:
            raise ValueError(f"an element has {len(content)} bytes, expected {size}")
        yield kind, content
        # arrays are padded to eight bytes, compressed ones are not
        place = begin + size if kind == _COMPRESSED else place + 8 if begin == place + 4 else begin + -(-size // 8) * 8
