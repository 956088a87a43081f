"""Pictures in one folder whose classes are in a list beside it, and what all folders of pictures share."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ddfast._env import max_image_pixels
from ddfast._outside import read_bytes

_MORE = 64 << 20  # bytes of a file beside its pixels, such as a profile


class ListedSource:
    """Pictures in one folder; positions follow the sorted file names.

    Args:
        folder: the pictures' folder.
        class_names: in label order.
        files: names of each class's files; classes that are not among ``class_names`` are left out.
        name: short name.
    """

    def __init__(
        self, folder: Path, class_names: Sequence[str], files: Mapping[str, Sequence[str]], *, name: str
    ) -> None:
        self._folder, self.name, self.class_names = folder, name, tuple(class_names)
        self._files = [tuple(sorted(files.get(each, ()))) for each in self.class_names]

    def count(self, label: int) -> int:
        return len(self._files[label])

    def sample_id(self, label: int, position: int) -> str:
        return f"{self.class_names[label]}/{self._files[label][position]}"

    def load(self, label: int, position: int) -> bytes:
        return read_picture(str(self._folder / self._files[label][position]))

    def fingerprint(self) -> str:
        """SHA-256 over class names and sample ids: that of the same pictures in class folders."""
        return names_digest(self.class_names, self._files)


def read_picture(path: str) -> bytes:
    """A picture's file; OSError where it is larger than any picture within the limit, or no file."""
    try:
        return read_bytes(path, 4 * max_image_pixels() + _MORE)
    except ValueError as error:
        raise OSError(errno.EFBIG, str(error), path) from error


def names_digest(class_names: Sequence[str], files: Iterable[Sequence[str]]) -> str:
    """SHA-256 over class names and file names."""
    digest = hashlib.sha256(repr(tuple(class_names)).encode())
    for class_name, names in zip(class_names, files, strict=True):
        digest.update("".join(f"{class_name}/{file}\n" for file in names).encode(errors="surrogateescape"))
    return digest.hexdigest()


def folder_names(folder: Path) -> tuple[str, ...]:
    """Names of the folders in a folder, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir()))
