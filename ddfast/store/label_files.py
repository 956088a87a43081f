"""Files of a label store: written in place while an epoch goes on, renamed when it is complete."""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddfast._temporary import temporary_name
from ddfast.store.files import flush


def create_once(path: Path, data: bytes) -> None:
    """Write a file that appears complete, unless it is there; of several processes at once, one wins."""
    if path.exists():
        return
    temporary = path.with_name(temporary_name(path.name))
    try:
        temporary.write_bytes(data)
        flush(temporary)
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(temporary, path)  # no hard links on this file system
    finally:
        temporary.unlink(missing_ok=True)
    flush(path.parent)


def reserve(path: Path, size: int) -> None:
    """Make ``path`` with room for all of its bytes, so that a full disk shows at once and not in the middle.

    Raises:
        OSError: no room; nothing is left behind.
    """
    if path.exists() and path.stat().st_size == size:
        return
    handle = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o666)
    try:
        os.ftruncate(handle, size)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(handle, 0, size)
    except OSError:
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def write_rows(path: Path, rows: NDArray[np.void], ids: NDArray[np.int64], flags_at: int) -> None:
    """Write each row at its id, flush, and only then the flags (one byte an id, from byte ``flags_at``) that say so."""
    handle = os.open(path, os.O_RDWR)
    try:
        for start, stop in _runs(ids):
            _write_at(handle, rows[start:stop].tobytes(), int(ids[start]) * rows.itemsize)
        os.fsync(handle)
        for start, stop in _runs(ids):
            _write_at(handle, b"\1" * (stop - start), flags_at + int(ids[start]))
    finally:
        os.close(handle)


def cut(path: Path, size: int) -> None:
    """Shorten a file and flush it."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.ftruncate(handle, size)
        os.fsync(handle)
    finally:
        os.close(handle)


def explain(error: OSError, place: Path) -> OSError:
    """``error`` with what to do about it when the disk is full or refuses; any other as it is."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free some space and go on with --resume, or store top-k labels"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "make the folder writable or choose another"
    else:
        return error
    reason = error.strerror or "refused"
    return OSError(error.errno, f"{reason} while writing labels; finished epochs are kept, {hint}", str(place))


def _runs(ids: NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, stop) of stretches of consecutive ids."""
    if not len(ids):
        return []
    cuts = [0, *(np.flatnonzero(np.diff(ids) != 1) + 1).tolist(), len(ids)]
    return list(itertools.pairwise(cuts))


def _write_at(handle: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(handle, view, offset)
        view, offset = view[count:], offset + count
