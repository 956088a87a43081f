"""What an .npz file says it holds, looked at before numpy makes room for it."""

from __future__ import annotations

import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from numpy.lib import format as npy

# what zipfile and numpy make of damaged files
NPZ_DAMAGE = (
    ValueError, TypeError, LookupError, ArithmeticError, AttributeError, EOFError, RuntimeError, SyntaxError,
    struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
_BOMB_BYTES = 1 << 28
_BOMB_RATIO = 100  # pictures of digits shrink to a tenth; a file of nothing but zeros to a thousandth


def check_npz(path: Path) -> None:
    """Compares the lengths of each array with its header, and with the bytes it takes in the archive.

    Raises:
        ValueError: a header that asks for other than what is there, or an array that is nearly all zeros and large.
        Exception: one of ``NPZ_DAMAGE``, from a damaged archive.
        OSError: it cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                continue
            if entry.file_size > max(_BOMB_BYTES, _BOMB_RATIO * entry.compress_size):
                raise ValueError(
                    f"{entry.filename[:80]} has {entry.file_size} bytes out of {entry.compress_size}, more than "
                    "pictures shrink; store it without compression if it is meant to be so"
                )
            with archive.open(entry) as file:
                wanted, begin = _described(file)
                if wanted is not None and begin + wanted != entry.file_size:
                    raise ValueError(
                        f"{entry.filename[:80]} has {entry.file_size - begin} bytes, expected {wanted} for its shape"
                    )


def _described(file: IO[bytes]) -> tuple[int | None, int]:
    """Bytes of the array that a .npy file's header describes (None for Python objects), and of the header."""
    version = npy.read_magic(file)
    readers: dict[tuple[int, int], Any] = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"a header of version {version}, expected 1.0 or 2.0")
    shape, _, dtype = readers[version](file)
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    return (None if dtype.hasobject else math.prod(shape) * dtype.itemsize), file.tell()
