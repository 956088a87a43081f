"""CIFAR-10 and CIFAR-100 as their authors ship them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import read_lines
from ddfast.data.arrays import ArraySource

_PLANE = 32 * 32
_TEN_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))


def find_cifar(folder: Path) -> tuple[str, Path] | None:
    """Which CIFAR ``folder`` holds, itself or one level down: ("10-bin" | "100-bin" | "10-py" | "100-py", its path)."""
    for place in (folder, folder / "cifar-10-batches-bin", folder / "cifar-100-binary"):
        if (place / _TEN_BATCHES[0]).is_file():
            return "10-bin", place
        if (place / "train.bin").is_file() and (place / "test.bin").is_file():
            return "100-bin", place
    for place in (folder, folder / "cifar-10-batches-py", folder / "cifar-100-python"):
        if (place / "data_batch_1").is_file() and (place / "batches.meta").is_file():
            return "10-py", place
        if (place / "train").is_file() and (place / "meta").is_file():
            return "100-py", place
    return None


def open_cifar(folder: Path, split: str = "train") -> ArraySource:
    """Opens CIFAR-10 or CIFAR-100 (fine labels): the binary version, or torchvision's download of the Python version.

    The binary files are read directly. The Python version is pickled, so it goes through torchvision's dataset class,
    which compares checksums first.

    Args:
        folder: the folder with the batches, or the one above it.
        split: "train" or "test".

    Raises:
        ValueError: unknown split, no CIFAR in ``folder``, or a file of a wrong length.
        FileNotFoundError: a batch is missing.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test' for CIFAR")
    found = find_cifar(folder)
    if found is None:
        raise ValueError(
            f"{folder}: holds no CIFAR, expected data_batch_1.bin (CIFAR-10), train.bin and test.bin (CIFAR-100), or "
            "torchvision's cifar-10-batches-py or cifar-100-python"
        )
    kind, place = found
    suffix = "" if split == "train" else f":{split}"
    if kind == "10-bin":
        files = _TEN_BATCHES if split == "train" else ("test_batch.bin",)
        images, labels = _read_binary([place / f for f in files], label_bytes=1)
        return ArraySource(images, labels, _read_names(place / "batches.meta.txt"), name=f"cifar10{suffix}")
    if kind == "100-bin":
        images, labels = _read_binary([place / f"{split}.bin"], label_bytes=2)
        return ArraySource(images, labels, _read_names(place / "fine_label_names.txt"), name=f"cifar100{suffix}")
    return _open_torchvision(kind, place, split, suffix)


def download_cifar(name: str, folder: Path) -> Path:
    """Downloads CIFAR with torchvision, checksums included; what is there already is kept.

    Args:
        name: torchvision's class, "CIFAR10" or "CIFAR100".
        folder: where to.

    Returns:
        ``folder``, for `open_cifar`.

    Raises:
        ValueError: it cannot be had; the message says what to do.
    """
    from torchvision import datasets

    try:
        getattr(datasets, name)(str(folder), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"data: {name} could not be downloaded ({error}); fetch it elsewhere and name its folder with --data"
        ) from error
    return folder


def _read_binary(files: list[Path], label_bytes: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    record = label_bytes + 3 * _PLANE
    parts = []
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file}: this batch of CIFAR is missing")
        data = np.fromfile(file, dtype=np.uint8)
        if data.size == 0 or data.size % record:
            raise ValueError(f"{file}: has {data.size} bytes, expected a multiple of {record}; is it cut short?")
        parts.append(data.reshape(-1, record))
    rows = np.concatenate(parts)
    images = np.ascontiguousarray(rows[:, label_bytes:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return images, rows[:, label_bytes - 1].astype(np.int64)  # the fine label comes last in CIFAR-100


def _read_names(file: Path) -> list[str] | None:
    if not file.is_file():
        return None
    return [line.strip() for line in read_lines(file) if line.strip()]


def _open_torchvision(kind: str, place: Path, split: str, suffix: str) -> ArraySource:
    from torchvision import datasets

    dataset = datasets.CIFAR10 if kind == "10-py" else datasets.CIFAR100
    if place.name != dataset.base_folder:
        raise ValueError(f"{place}: this folder must be called {dataset.base_folder!r} for torchvision to read it")
    try:
        data = dataset(str(place.parent), train=split == "train", download=False)
    except RuntimeError as error:  # torchvision: "not found or corrupted"
        raise ValueError(
            f"{place}: torchvision refuses these files ({error}); use the binary version or fetch again"
        ) from error
    name = "cifar10" if kind == "10-py" else "cifar100"
    return ArraySource(data.data, np.asarray(data.targets), data.classes, name=f"{name}{suffix}")
