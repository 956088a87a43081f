"""Guards for what comes from outside: JSON files, and names in them that become paths.

Nothing that is read decides where something is written, deleted or read but through `path_inside` or `is_safe_path`,
and JSON comes in through `read_json`, which ends with a ValueError whatever the bytes are.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import stat
from pathlib import Path
from typing import Any, NoReturn

MAX_JSON_BYTES = 1 << 30
_MAX_DIGITS = 40
_MAX_PATH = 1000
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\:]")


def is_safe_path(name: object) -> bool:
    """True for a relative path with ``/`` between folders, without ``..``, backslash, colon or control characters."""
    if not isinstance(name, str) or not 0 < len(name) <= _MAX_PATH or _UNSAFE.search(name):
        return False
    return all(part not in ("", ".", "..") for part in name.split("/"))


def has_link(root: str | os.PathLike[str], name: str) -> bool:
    """Whether ``name`` below ``root``, or a folder on the way to it, is a symbolic link."""
    place = str(root)
    for part in name.split("/"):
        place = os.path.join(place, part)
        if os.path.islink(place):
            return True
    return False


def path_inside(root: str | os.PathLike[str], name: object, what: str) -> Path:
    """``root / name`` if that is a file or folder below ``root``, also where links lead.

    Args:
        root: the folder.
        name: as read from a file.
        what: what was read and where, for the message.

    Raises:
        ValueError: the name could lead out of the folder, or a link does.
    """
    if not is_safe_path(name):
        raise ValueError(f"{what}: got {str(name)[:80]!r}, expected a relative path that stays in the folder")
    path = Path(root) / str(name)
    if has_link(root, str(name)):
        real, top = os.path.realpath(path), os.path.realpath(root)
        if os.path.commonpath([real, top]) != top:
            raise ValueError(
                f"{what}: {path} is a link that leads out of the folder; copy what it stands for (cp -rL) into place"
            )
    return path


def read_json(path: str | os.PathLike[str], limit: int = MAX_JSON_BYTES, *, follow: bool = False) -> Any:
    """The value in a JSON file.

    Args:
        path: the file.
        limit: how many bytes it may have.
        follow: whether it may be a link: where the user named the file itself.

    Raises:
        ValueError: not JSON, too large or too deep; NaN, infinities or integers beyond 40 digits in it.
        OSError: it cannot be read.
    """
    return parse_json(read_bytes(path, limit, follow=follow))


def read_bytes(path: str | os.PathLike[str], limit: int, *, follow: bool = True) -> bytes:
    """The contents of a file of at most ``limit`` bytes; a pipe is not waited for, nor, without ``follow``, a link
    taken.

    Raises:
        ValueError: it is larger.
        OSError: it cannot be read, or is no file.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(errno.ELOOP, "is a link; copy what it stands for into its place", os.fspath(path)) from error
    with open(handle, "rb", buffering=0) as file:  # refuses folders
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "is no file", os.fspath(path))
        if found.st_size > limit:
            raise ValueError(f"{os.fspath(path)}: has {found.st_size} bytes, expected at most {limit}")
        return file.read()


def read_lines(path: str | os.PathLike[str], limit: int = 1 << 28) -> list[str]:
    """Lines of a UTF-8 text file.

    Raises:
        ValueError: it is larger than ``limit`` bytes or no text.
        OSError: it cannot be read.
    """
    try:
        return read_bytes(path, limit).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(path)}: is no UTF-8 text ({error})") from error


def check_file(path: str | os.PathLike[str]) -> None:
    """Raises OSError unless there is a file, which a pipe (for which a reader waits) is not."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL, "is no file", os.fspath(path))


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: as `read_json`.
    """
    text = data.decode("utf-8", "surrogatepass") if isinstance(data, bytes) else data
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_text(value: object, limit: int = 80) -> str:
    """A value for a message, cut short."""
    shown = repr(value)
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits, expected at most {_MAX_DIGITS}")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]}, which is too large")
    return value


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text}, which is not JSON")


_DECODER = json.JSONDecoder(parse_int=_integer, parse_float=_number, parse_constant=_constant)
