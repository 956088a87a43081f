"""Class folders on disk: one folder for each class, and Tiny-ImageNet's own layout."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from ddfast._outside import is_safe_path, read_lines
from ddfast.data.ilsvrc import IlsvrcValSource, is_ilsvrc_val
from ddfast.data.listed import ListedSource, folder_names, names_digest, read_picture

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
_SPLIT_NAMES = frozenset({"train", "val", "valid", "validation", "test"})
_ANNOTATIONS = "val_annotations.txt"


class SourceWarning(UserWarning):
    """Something in a data folder was left out; the message names it."""


class FolderSource:
    """One folder for each class; labels follow the sorted folder names, positions the sorted paths.

    The order is that of torchvision's ImageFolder (folders may be nested). A class is listed when it is first asked
    for, so opening ImageNet reads one directory. Hidden folders and stray files at the top are left out with a
    `SourceWarning`.

    Args:
        root: the folder with the class folders.
        name: short name; the last part of the path by default.

    Raises:
        ValueError: ``root`` is no folder, or holds no class folders (the message says what it holds).
    """

    def __init__(self, root: str | Path, *, name: str | None = None) -> None:
        self._root = Path(root)
        self.class_names = _class_folders(self._root)
        self.name = name or self._root.resolve().name
        self._files: dict[int, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._fingerprint = ""

    def count(self, label: int) -> int:
        return len(self._listing(label))

    def folder(self, label: int) -> Path:
        """The folder of a class."""
        return self._root / self.class_names[label]

    def sample_id(self, label: int, position: int) -> str:
        return f"{self.class_names[label]}/{self._listing(label)[position]}"

    def load(self, label: int, position: int) -> bytes:
        path = os.path.join(self._root, self.class_names[label], self._listing(label)[position])
        return read_picture(path)

    def fingerprint(self) -> str:
        """SHA-256 over class names and sample ids.

        Names alone: a look at each of ImageNet's 1.28 million files takes minutes on a network disk. A picture that was
        exchanged under its old name does not show.
        """
        if not self._fingerprint:
            self._fingerprint = names_digest(self.class_names, map(self._listing, range(len(self.class_names))))
        return self._fingerprint

    def _listing(self, label: int) -> tuple[str, ...]:
        files = self._files.get(label)
        if files is None:
            with self._lock:
                files = self._files.get(label)
                if files is None:
                    files = _list_pictures(self._root / self.class_names[label])
                    self._files[label] = files
        return files

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_lock"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


class TinyValSource(ListedSource):
    """The validation part of Tiny-ImageNet: one folder ``images`` and ``val_annotations.txt``.

    Labels follow the sorted wnids of ``wnids.txt`` (or of the train folders, else of the annotations themselves), so
    they agree with those of ``train``; positions follow the sorted file names.

    Args:
        folder: the folder ``val``.

    Raises:
        ValueError: a broken annotation line, or a wnid that is not among the classes.
    """

    def __init__(self, folder: str | Path) -> None:
        annotations = Path(folder) / _ANNOTATIONS
        files: dict[str, list[str]] = {}
        seen: set[str] = set()
        for number, line in enumerate(read_lines(annotations), 1):
            if not line.strip():
                continue
            fields = line.split("\t")
            if len(fields) < 2:
                raise ValueError(f"{annotations}: line {number} is {line!r}, expected file<tab>wnid<tab>box")
            if not is_safe_path(fields[0]) or "/" in fields[0]:
                raise ValueError(f"{annotations}: line {number} names {fields[0]!r}, expected a file")
            if fields[0] in seen:
                raise ValueError(f"{annotations}: line {number} names {fields[0]!r} again, expected once")
            seen.add(fields[0])
            files.setdefault(fields[1], []).append(fields[0])
        class_names = _tiny_classes(annotations.parent.parent) or tuple(sorted(files))
        unknown = sorted(set(files) - set(class_names))
        if unknown:
            raise ValueError(f"{annotations}: names {unknown[:5]}, which are not among the classes")
        super().__init__(annotations.parent / "images", class_names, files, name="tiny-imagenet:val")


def is_tiny_root(root: Path) -> bool:
    """Whether ``root`` is the top folder of Tiny-ImageNet."""
    return (root / "train").is_dir() and ((root / "wnids.txt").is_file() or (root / "val" / _ANNOTATIONS).is_file())


def is_tiny_val(folder: Path) -> bool:
    """Whether ``folder`` is the validation folder of Tiny-ImageNet."""
    return (folder / _ANNOTATIONS).is_file() and (folder / "images").is_dir()


def open_folder(root: Path, split: str | None = None) -> FolderSource | ListedSource:
    """Opens class folders, or one split of a folder with splits.

    Args:
        root: class folders, or a folder with ``train``, ``val`` ... of class folders, or Tiny-ImageNet; ImageNet-1K's
            ``val`` may be one flat folder with ``LOC_val_solution.csv`` beside it.
        split: name of the folder below ``root``; None when ``root`` holds the classes itself (Tiny-ImageNet: "train").

    Raises:
        ValueError: as in `FolderSource`, or no such split.
    """
    if is_tiny_root(root):
        if split == "val":
            return TinyValSource(root / "val")
        if split in (None, "train"):
            return FolderSource(root / "train", name="tiny-imagenet")
        raise ValueError(
            f"split: got {split!r}, expected 'train' or 'val': Tiny-ImageNet's test pictures have no labels"
        )
    if split is not None:
        if not (root / split).is_dir():
            raise ValueError(f"{root}: has no folder {split!r}; it holds {_describe(root)}")
        root, name = root / split, f"{root.resolve().name}:{split}"
        return _one_folder(root, name)
    return _one_folder(root, root.resolve().name)


def _one_folder(root: Path, name: str) -> FolderSource | ListedSource:
    if is_tiny_val(root):
        return TinyValSource(root)
    return IlsvrcValSource(root, name=name) if is_ilsvrc_val(root) else FolderSource(root, name=name)


def _class_folders(root: Path) -> tuple[str, ...]:
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise ValueError(f"{root}: {what}, expected a folder with one folder for each class")
    with os.scandir(root) as entries:
        listed = [(entry.name, entry.is_dir()) for entry in entries]
    folders = sorted(name for name, is_dir in listed if is_dir)
    classes = tuple(name for name in folders if not name.startswith("."))
    if not classes:
        raise ValueError(f"{root}: holds {_describe(root)}, expected one folder for each class with its pictures in it")
    splits = [name for name in classes if name in _SPLIT_NAMES]
    if splits and len(splits) == len(classes):
        raise ValueError(
            f"{root}: holds the splits {', '.join(splits)} instead of classes; open {root / splits[0]} "
            f"or '{root}:{splits[0]}'"
        )
    hidden = [name for name in folders if name.startswith(".")]
    stray = sorted(name for name, is_dir in listed if not is_dir and not name.startswith("."))
    if hidden:
        warnings.warn(f"{root}: hidden folders are no classes: {_some(hidden)}", SourceWarning, stacklevel=3)
    if stray:
        warnings.warn(
            f"{root}: files beside the class folders are not used: {_some(stray)}", SourceWarning, stacklevel=3
        )
    return classes


def _list_pictures(folder: Path) -> tuple[str, ...]:
    files: list[str] = []
    for place, names in sorted(_walk(folder)):
        below = os.path.relpath(place, folder)
        for name in sorted(names):
            if name.lower().endswith(PICTURE_SUFFIXES) and not name.startswith("."):
                files.append(name if below == "." else f"{below}/{name}")
    if not files:
        warnings.warn(
            f"{folder}: this class has no pictures; it holds {_describe(folder)}, expected files ending in "
            f"{' '.join(PICTURE_SUFFIXES)}",
            SourceWarning,
            stacklevel=4,
        )
    return tuple(files)


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Folders with their files; links are followed, but a folder is entered once, whatever leads to it: links to one
    above would go on for ever."""
    entered: set[tuple[int, int]] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in entered:
            folders.clear()
            continue
        entered.add((found.st_dev, found.st_ino))
        folders.sort()
        yield place, names


def _tiny_classes(root: Path) -> tuple[str, ...]:
    if (root / "wnids.txt").is_file():
        return tuple(sorted({word for line in read_lines(root / "wnids.txt") for word in line.split()}))
    return folder_names(root / "train")


def _describe(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    if not names:
        return "nothing"
    pictures = sum(name.lower().endswith(PICTURE_SUFFIXES) for name in names)
    return f"{len(names)} entries, {pictures} of them pictures ({_some(names)})"


def _some(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
