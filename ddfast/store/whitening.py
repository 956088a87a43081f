"""The whitening (ZCA) that a set's students see pictures through: in memory, and in a file beside the set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._outside import path_inside
from ddfast.store.files import read_tensors, write_tensors

WHITENING_FILE = "whitening.safetensors"
_ROWS = 4096
_PART = 1 << 20  # bytes


@dataclass(frozen=True)
class Whitening:
    """``white = (x - mean) matrix``, where x is a picture in [0, 1] flattened in [channel, row, column] order.

    ``mean`` float32 [D] and ``matrix`` float32 [D, D], D = 3 H W.

    Raises:
        ValueError: other shapes.
    """

    mean: Tensor
    matrix: Tensor

    def __post_init__(self) -> None:
        size = self.mean.numel()
        if self.mean.ndim != 1 or tuple(self.matrix.shape) != (size, size):
            raise ValueError(
                f"mean, matrix: got shapes {list(self.mean.shape)} and {list(self.matrix.shape)}, expected [D] and "
                "[D, D], D the numbers of a picture"
            )

    @property
    def bytes(self) -> int:
        """What mean and matrix take."""
        return sum(each.numel() * each.element_size() for each in (self.mean, self.matrix))

    def apply(self, images: Tensor) -> Tensor:
        """Pictures as students of the set see them, float32 [N, 3, H, W].

        Args:
            images: uint8 [N, H, W, 3], or float [N, 3, H, W] in [0, 1], as torchvision's ``ToTensor`` gives.

        Raises:
            ValueError: pictures of another size or layout.
        """
        if images.dtype == torch.uint8:
            layout, channels = "uint8 [N, H, W, 3]", 3
            shape = (len(images), *images.shape[3:], *images.shape[1:3])
        else:
            layout, channels = "float [N, 3, H, W]", 1
            shape = tuple(images.shape)
        fits = images.ndim == 4 and images.shape[channels] == 3 and images[:1].numel() in (0, self.mean.numel())
        if not fits or not (images.dtype == torch.uint8 or images.is_floating_point()):
            raise ValueError(
                f"images: got {images.dtype} {list(images.shape)}, expected {layout} with {self.mean.numel()} numbers "
                "a picture, the size of those it was fitted to"
            )
        mean, matrix = self.mean.to(images.device), self.matrix.to(images.device)
        rows = torch.cat([(flat_pixels(part) - mean) @ matrix for part in images.split(_ROWS)])
        return rows.reshape(shape)


def flat_pixels(images: Tensor) -> Tensor:
    """Pictures, uint8 [N, H, W, 3] or float [N, 3, H, W] in [0, 1], as rows float32 [N, D] in [0, 1]."""
    if images.dtype != torch.uint8:
        return images.flatten(1).float()
    return images.permute(0, 3, 1, 2).flatten(1).float() / 255


def write_whitening(folder: Path, whitening: Whitening) -> dict[str, Any]:
    """Writes ``whitening.safetensors`` and returns the manifest's entry: file, its bytes and SHA-256."""
    path = folder / WHITENING_FILE
    tensors = {"mean": whitening.mean, "matrix": whitening.matrix}
    write_tensors(path, {name: each.detach().cpu().contiguous() for name, each in tensors.items()})
    return {"file": WHITENING_FILE, "bytes": path.stat().st_size, "sha256": _sha256(path)}


def read_whitening(folder: Path, entry: Mapping[str, Any] | None, numbers: int) -> Whitening | None:
    """The whitening that a manifest's entry names; None where there is no entry, or its file was left out of a copy
    (it is found again from the real set).

    Args:
        folder: of the set.
        entry: of `write_whitening`.
        numbers: of a picture of the set.

    Raises:
        ValueError: the file is damaged, or belongs to another set.
    """
    if entry is None:
        return None
    path = path_inside(folder, str(entry["file"]), "manifest: whitening")
    if not path.is_file():
        return None
    if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
        raise ValueError(f"{path}: is not the file that the manifest lists (size or SHA-256 differ); copy the set anew")
    tensors = read_tensors(path)
    if not all(name in tensors and tensors[name].dtype == torch.float32 for name in ("mean", "matrix")):
        raise ValueError(f"{path}: got tensors {sorted(tensors)}, expected mean and matrix in float32")
    try:
        found = Whitening(tensors["mean"], tensors["matrix"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if not (bool(torch.isfinite(found.mean).all()) and bool(torch.isfinite(found.matrix).all())):
        raise ValueError(f"{path}: holds NaN or infinity; copy the set anew")
    if found.mean.numel() != numbers:
        raise ValueError(f"{path}: is of pictures of {found.mean.numel()} numbers, the set's have {numbers}")
    return found


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART):
            digest.update(part)
    return digest.hexdigest()
