"""The usual files of known data sets, made small."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from tests.data.data_helpers import encode, picture


def idx(array: np.ndarray) -> bytes:
    """An IDX file of bytes."""
    sides = b"".join(int(side).to_bytes(4, "big") for side in array.shape)
    return bytes((0, 0, 8, array.ndim)) + sides + array.tobytes()


def make_idx(folder: Path, *, packed: bool = False, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Twelve training pictures and six others, 28 x 28; the former are returned."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(seed)
    made = {}
    for part, count in (("train", 12), ("t10k", 6)):
        images, labels = random.integers(0, 256, (count, 28, 28), np.uint8), np.arange(count).astype(np.uint8) % 10
        made[part] = images, labels
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            data = idx(array)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return made["train"]


def element(kind: int, data: bytes, order: str = "<") -> bytes:
    """A data element of a MATLAB file, small ones in their tag."""
    if len(data) <= 4:
        return struct.pack(f"{order}I", len(data) << 16 | kind) + data.ljust(4, b"\0")
    return struct.pack(f"{order}2I", kind, len(data)) + data + bytes(-len(data) % 8)


def matlab(arrays: dict[str, np.ndarray], order: str = "<", packed: bool = True) -> bytes:
    """A MATLAB file of level 5."""
    kinds = {"u1": (9, 2), "f8": (6, 9), "i4": (12, 5)}
    made = [b"MATLAB 5.0 MAT-file".ljust(124), struct.pack(f"{order}H", 0x0100), b"IM" if order == "<" else b"MI"]
    for name, array in arrays.items():
        shown, number = kinds[array.dtype.str[1:]]
        parts = [
            element(6, struct.pack(f"{order}2I", shown, 0), order),
            element(5, struct.pack(f"{order}{array.ndim}i", *array.shape), order),
            element(1, name.encode(), order),
            element(number, array.astype(array.dtype.newbyteorder(order)).tobytes(order="F"), order),
        ]
        whole = element(14, b"".join(parts), order)
        data = zlib.compress(whole)
        made.append(struct.pack(f"{order}2I", 15, len(data)) + data if packed else whole)
    return b"".join(made)


def make_svhn(
    folder: Path, count: int = 11, order: str = "<", packed: bool = True, **changes: np.ndarray
) -> np.ndarray:
    """A file of ``count`` pictures; labels as SVHN has them, 1 to 10."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, count), np.uint8)
    labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
    found = {"X": images, "y": labels, **changes}
    (folder / "train_32x32.mat").write_bytes(matlab(found, order, packed))
    return images


def make_downsampled(folder: Path, side: int = 8) -> np.ndarray:
    """Ten files of three pictures and three classes, whose labels are not in the order of their WordNet ids."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    (folder / "map_clsloc.txt").write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\nn01440764 3 tench\n")
    parts = []
    for name in [*(f"train_data_batch_{number}" for number in range(1, 11)), "val_data"]:
        data = random.integers(0, 256, (3, 3 * side * side), np.uint8)
        np.savez(folder / f"{name}.npz", data=data, labels=np.array([2, 1, 3]), mean=data.mean(0))
        parts.append(data)
    return np.concatenate(parts[:-1])


def make_flat(folder: Path, root: Path) -> None:
    """ImageNet's ``root`` with a flat validation part of four pictures of three classes, their list in ``folder``."""
    (root / "val").mkdir(parents=True)
    lines = ["ImageId,PredictionString"]
    for number, wnid in enumerate(("n03", "n01", "n03", "n02"), 1):
        name = f"ILSVRC2012_val_{number:08d}"
        (root / "val" / f"{name}.JPEG").write_bytes(encode(picture(20, 24, number)))
        lines.append(f"{name},{wnid}000000 85 1 499 272 {wnid}000000 1 2 3 4 ")
    (folder / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
