"""Distilled sets as other programs read them: ImageFolder, tensors of MTT and DD-Ranking, Hugging Face parquet."""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ddfast._temporary import temporary_name
from ddfast.store.codec import ImageFormat
from ddfast.store.ddranking import write_ddranking
from ddfast.store.distilled import DistilledSet
from ddfast.store.hub import write_hub
from ddfast.store.layout import class_files
from ddfast.store.manifest import MANIFEST_FILE, manifest_bytes
from ddfast.store.peers import without_tensors, write_mtt


def export(
    distilled: DistilledSet | str | os.PathLike[str], to: str, out: str | os.PathLike[str], **options: Any
) -> Path:
    """Writes a set to a new folder. The folder appears when all of it is written, or not at all.

    Images are those that students train on: decoded ones, where the set's are decoded (`DistilledSet.decoded`).

    Args:
        distilled: the set or its folder.
        to: ``"imagefolder"``, ``"mtt"``, ``"ddranking"`` or ``"huggingface"``.
        out: a folder that does not exist or is empty.
        **options: of `write_imagefolder`, `write_mtt` or `write_ddranking`.

    Returns:
        The folder.

    Raises:
        ValueError: unknown layout, or a set that does not fit it.
        TypeError: an option that the layout does not have; nothing is read then.
        FileExistsError: the folder holds something.
        ImportError: Hugging Face parquet without pyarrow.
    """
    if to not in EXPORTERS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(sorted(EXPORTERS))}")
    for name in options:
        if name not in _options(to):
            owners = [f"{layout!r}" for layout in sorted(EXPORTERS) if name in _options(layout)]
            whose = f"it is of {' and '.join(owners)}" if owners else f"expected {', '.join(_options(to)) or 'none'}"
            raise TypeError(f"{name}: {to!r} has no such option; {whose}")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: exists and is not an empty folder; choose another or delete it first")
    loaded = (distilled if isinstance(distilled, DistilledSet) else DistilledSet.load(distilled)).decoded()
    building = target.parent / temporary_name(target.name)
    try:
        building.mkdir(parents=True)
        EXPORTERS[to](loaded, building, **options)
        if target.exists():
            target.rmdir()
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def write_imagefolder(distilled: DistilledSet, out: Path, *, jpeg: bool = False) -> None:
    """``train/{class:05d}/class{class:05d}_id{id:05d}.png`` for torchvision's ImageFolder, ``classes.json`` and
    ``manifest.json``, with which `ddfast.load` reads it back.

    Folders are zero-padded numbers, so their sorted order is the label order; ``classes.json`` lists the names. Images
    are 8-bit: unrounded ones, latents and soft labels have no place here, and the manifest says what was left out.

    Args:
        distilled: the set.
        out: an empty folder.
        jpeg: JPEG of quality 95 with full chroma instead of lossless PNG.
    """
    image_format = ImageFormat("jpeg", 95, "4:4:4") if jpeg else ImageFormat("png")
    files, sizes = [""] * len(distilled), {}
    for label in range(len(distilled.class_names)):
        (out / "train" / f"{label:05d}").mkdir(parents=True)
        rows = torch.nonzero(distilled.labels == label)[:, 0]
        made = class_files(label, distilled.images[rows], image_format)
        for row, (name, data) in zip(rows.tolist(), made.items(), strict=True):
            files[row] = f"train/{name}"
            sizes[files[row]] = len(data)
            (out / files[row]).write_bytes(data)
    _write_json(out / "classes.json", list(distilled.class_names))
    bare, left_out = without_tensors(distilled)
    manifest = bare.described("folder", image_format, files, sizes)
    manifest["exported"] = {"to": "imagefolder", "left_out": left_out}
    (out / MANIFEST_FILE).write_bytes(manifest_bytes(manifest))


def _options(to: str) -> list[str]:
    parameters = inspect.signature(EXPORTERS[to]).parameters.values()
    return [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]


def _write_json(path: Path, value: Any) -> None:
    # what is no Unicode is written as JSON's own escapes
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8", "backslashreplace")


EXPORTERS: dict[str, Callable[..., None]] = {
    "imagefolder": write_imagefolder,
    "mtt": write_mtt,
    "ddranking": write_ddranking,
    "huggingface": write_hub,
}
