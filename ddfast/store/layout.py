"""The image folder: ``{class:05d}/class{class:05d}_id{id:05d}.jpg``, the layout of the RDED reference.

Folders are named by label, never by class name, so no class name can become a path.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ddfast._outside import path_inside
from ddfast.store.codec import ImageFormat

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def image_name(label: int, index: int, suffix: str = ".jpg") -> str:
    """Path of image ``index`` of class ``label``, relative to the set's folder."""
    return f"{label:05d}/class{label:05d}_id{index:05d}{suffix}"


def class_files(
    label: int, images: Tensor | NDArray[np.uint8], image_format: ImageFormat | None = None
) -> dict[str, bytes]:
    """The files of one finished class.

    Args:
        label: class index, 0 .. 99999.
        images: uint8 [n, H, W, 3] RGB, on any device.
        image_format: None for the reference's JPEG.

    Returns:
        ``{relative path: bytes}``, n entries in the order of ``images``.

    Raises:
        ValueError: ``label`` is out of range or ``images`` has another shape.
        TypeError: ``images`` is not uint8.
    """
    if not 0 <= label <= 99999:
        raise ValueError(f"label: got {label}, expected 0 to 99999 (folder names have five digits)")
    array = as_array(images)
    options = image_format or ImageFormat()
    return {image_name(label, index, options.suffix): options.encode(image) for index, image in enumerate(array)}


def as_array(images: Tensor | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images as a numpy array, uint8 [n, H, W, 3].

    Raises:
        TypeError: not uint8.
        ValueError: another shape.
    """
    array = images.detach().cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8:
        raise TypeError(f"images: got {array.dtype}, expected uint8")
    if array.ndim != 4 or array.shape[3] != 3:
        raise ValueError(f"images: got shape {array.shape}, expected [n, height, width, 3]")
    return array


def scan_folder(root: Path) -> tuple[list[str], list[int], tuple[str, ...]]:
    """The images of a folder that has no manifest, such as the RDED reference writes.

    Sub-folders named by numbers only are labels; otherwise labels follow the sorted folder names.

    Returns:
        relative paths, their labels, class names (the folder names); class by class, files in natural order.

    Raises:
        ValueError: no images are found, or two folders mean one label.
    """
    folders = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found = {name: _image_files(path_inside(root, name, str(root))) for name in folders}
    if not any(found.values()):
        raise ValueError(
            f"{root}: no images found, expected sub-folders (one per class) with {'/'.join(IMAGE_SUFFIXES)}"
        )
    labels = _folder_labels(root, folders)
    names = [f"{label:05d}" for label in range(max(labels.values()) + 1)]
    for folder, label in labels.items():
        names[label] = folder
    paths, targets = [], []
    for folder in sorted(folders, key=labels.__getitem__):
        paths += [f"{folder}/{file}" for file in found[folder]]
        targets += [labels[folder]] * len(found[folder])
    return paths, targets, tuple(names)


def _folder_labels(root: Path, folders: Sequence[str]) -> dict[str, int]:
    if not all(re.fullmatch(r"[0-9]{1,9}", name) for name in folders):
        return {name: index for index, name in enumerate(folders)}
    labels = {name: int(name) for name in folders}
    if len(set(labels.values())) != len(labels):
        raise ValueError(f"{root}: two folders mean the same label: {', '.join(folders)}")
    if max(labels.values()) > 99999:
        raise ValueError(f"{root}: folder {max(labels, key=labels.__getitem__)!r} is no label, expected at most 99999")
    return labels


def _image_files(folder: Path) -> list[str]:
    names = [entry.name for entry in folder.iterdir() if entry.suffix.lower() in IMAGE_SUFFIXES]
    return sorted((name for name in names if not name.startswith(".")), key=_natural)


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``id2`` comes before ``id10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((1, int(part), part) if part.isdecimal() else (0, 0, part) for part in parts)
