"""Files that are either complete or not there: temporary name, fsync, rename.

A reader, on this machine or on another one that shares the file system, never sees half a file. A full disk, a lost
permission or an interrupt leaves neither the file nor its temporary; only a killed process can leave a temporary, and
`remove_temporaries` knows it by its name.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ddfast._temporary import TEMPORARY_PREFIX, abandoned, temporary_name

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class RunError(RuntimeError):
    """A run cannot go on as things stand on disk; the message says what to do."""


def explain(error: OSError, path: Path, doing: str) -> RunError | None:
    """The `RunError` for a full or read-only disk, or None if ``error`` is another one.

    Args:
        error: what the system reported.
        path: the file or folder concerned.
        doing: what was being done, for the message ("writing 12 bytes").
    """
    if error.errno in _FULL:
        return RunError(
            f"{path}: disk full or quota used up while {doing}; nothing half-written was left. "
            "Free some space and run the same command with --resume: finished tasks are kept."
        )
    if error.errno in _REFUSED:
        return RunError(
            f"{path}: not allowed while {doing} ({error.strerror}). Make the folder writable and run the same command "
            "with --resume, or choose another output folder."
        )
    return None


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is complete or absent, also after a power cut.

    The bytes go to a temporary in the same folder, are flushed to the disk, and take the final name in one step; the
    folder is flushed too. Missing folders are made. An existing file is replaced.

    Args:
        path: the file.
        data: its contents.

    Raises:
        RunError: the disk is full or the folder may not be written to.
        OSError: any other failure of the system.
    """
    target = Path(path)
    staged = stage_bytes(target, data)
    publish([(staged, target)])


def atomic_create_bytes(path: str | os.PathLike[str], data: bytes) -> bool:
    """Like `atomic_write_bytes`, but never replaces: of several writers at once exactly one succeeds.

    Args:
        path: the file.
        data: its contents.

    Returns:
        True if this call made the file, False if it was there.

    Raises:
        RunError, OSError: as in `atomic_write_bytes`.
    """
    target = Path(path)
    staged = stage_bytes(target, data)
    try:
        _flush_files([staged])
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise explain(error, target, "naming the finished file") or error from error
        if target.exists():  # without hard links (FAT, some network shares) two writers can both get here
            return False
        os.replace(staged, target)
    finally:
        discard([staged])
    flush_folder(target.parent)
    return True


def create_exclusive(path: Path, data: bytes) -> bool:
    """Make a short-lived file, complete or absent, in a folder that exists; never replaces, not flushed to the disk.

    Unlike `atomic_create_bytes` it stays exclusive on file systems without hard links, where a killed process can
    leave the file empty.

    Args:
        path: the file.
        data: its contents.

    Returns:
        True if this call made the file, False if it was there.

    Raises:
        RunError, OSError: as in `atomic_write_bytes`.
    """
    staged = _temporary_of(path)
    try:
        _write(staged, data)
        return name_exclusively(staged, path)
    except OSError as error:
        raise explain(error, path, f"writing {len(data)} bytes") or error from error
    finally:
        discard([staged])


def name_exclusively(temporary: Path, path: Path) -> bool:
    """Give a finished file its name unless that is taken; True if it got it. ``temporary`` may stay, to be discarded.

    Raises:
        OSError: as the system reports.
    """
    try:
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            os.replace(temporary, path)
    except FileExistsError:
        return False
    return True


def stage_bytes(path: str | os.PathLike[str], data: bytes, *, folders: bool = True) -> Path:
    """Write ``data`` under a temporary name beside ``path``; `publish` flushes it to the disk and names it.

    Args:
        path: the final path.
        data: its contents.
        folders: make missing folders; without it a missing one is FileNotFoundError.

    Returns:
        The temporary, for `publish` or `discard`.

    Raises:
        RunError, OSError: as in `atomic_write_bytes`; no temporary is left.
    """
    target = Path(path)
    temporary = _temporary_of(target)
    try:
        if folders:
            target.parent.mkdir(parents=True, exist_ok=True)
        _write(temporary, data)
    except BaseException as error:
        discard([temporary])
        if isinstance(error, OSError):
            raise explain(error, target, f"writing {len(data)} bytes") or error from error
        raise
    return temporary


def _temporary_of(target: Path) -> Path:
    return target.with_name(temporary_name(target.name))


def publish(pairs: Iterable[tuple[Path, Path]]) -> None:
    """Flush staged files to the disk, give them their final names in the order given, and flush the folders.

    Args:
        pairs: (temporary, final path), both in the same folder.

    Raises:
        RunError, OSError: as in `atomic_write_bytes`; the temporaries not yet renamed are removed.
    """
    waiting = list(pairs)
    folders = {target.parent for _, target in waiting}
    try:
        _flush_files([temporary for temporary, _ in waiting])
        while waiting:
            os.replace(*waiting[0])
            waiting.pop(0)
    except BaseException as error:
        discard(temporary for temporary, _ in waiting)
        if isinstance(error, OSError):
            raise explain(error, waiting[0][1], "finishing the file") or error from error
        raise
    for folder in sorted(folders):
        flush_folder(folder)


def discard(temporaries: Iterable[Path]) -> None:
    """Remove staged files; those already gone are no error, nor are those on a disk that has become read-only.

    They would hide the error that led here; `remove_temporaries` finds them later.
    """
    for temporary in temporaries:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_temporaries(folder: str | os.PathLike[str], *, idle: float = 0.0) -> int:
    """Remove what killed processes left in ``folder`` (not below it): files, and folders with all they hold.

    Args:
        folder: where to look.
        idle: leave what changed in the last ``idle`` seconds, by the file system's clock, unless its writer was a
            process of this machine that has ended; 0 only when nobody writes there any more.

    Returns:
        How many entries were removed; 0 if the folder does not exist.
    """
    root = Path(folder)
    try:
        found = [entry for entry in root.iterdir() if entry.name.startswith(TEMPORARY_PREFIX)]
    except FileNotFoundError:
        return 0
    if idle > 0 and (living := [entry for entry in found if not abandoned(entry.name)]):
        probe = stage_bytes(root / "clock", b"")
        now = _changed(probe)
        discard([probe])
        limit = now - idle if math.isfinite(now) else -math.inf  # the probe swept by another: nobody's age is known
        found = [entry for entry in found if entry not in living or _changed(entry) <= limit]
    for entry in found:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return len(found)


def remove_folder(folder: str | os.PathLike[str]) -> None:
    """Remove a folder with all it holds in one step, as others see it; one that is not there is no error."""
    target = Path(folder)
    gone = _temporary_of(target)
    try:
        os.rename(target, gone)
    except FileNotFoundError:
        return
    shutil.rmtree(gone, ignore_errors=True)


def _changed(path: Path) -> float:
    """Time of the last change of a file, or of anything in a folder; infinite if it is gone."""
    try:
        return max(entry.lstat().st_mtime for entry in (path, *path.rglob("*")))
    except FileNotFoundError:
        return math.inf


def flush_folder(folder: str | os.PathLike[str]) -> None:
    """fsync a folder, so that renames in it survive a power cut; does nothing where the system cannot.

    Raises:
        RunError, OSError: as in `atomic_write_bytes`.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    except OSError:  # Windows cannot open folders, and a folder may be writable but not readable
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # some network file systems refuse it
            raise explain(error, Path(folder), "finishing the folder") or error from error
    finally:
        os.close(handle)


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view) :]
    finally:
        os.close(handle)


def _flush_files(paths: list[Path]) -> None:
    """fsync files, several at once: a journalling file system commits them together, in a fifth of the time."""
    if len(paths) < 2:
        for path in paths:
            _flush_file(path)
        return
    with ThreadPoolExecutor(min(len(paths), 8)) as pool:
        list(pool.map(_flush_file, paths))


def _flush_file(path: Path) -> None:
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
