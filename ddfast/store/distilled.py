"""The distilled set: images, labels and manifest, in memory and on disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ddfast._outside import as_text
from ddfast._temporary import temporary_name
from ddfast._types import Normalization
from ddfast.store.codec import ImageFormat
from ddfast.store.dataset import DistilledDataset
from ddfast.store.files import (
    EXTRAS_FILE,
    IMAGES_FILE,
    RUN_FILE,
    explain,
    flush,
    is_open_run,
    move_into_place,
    read_images,
    read_tensors,
    threads,
    write_tensors,
)
from ddfast.store.formation import Formation, decode_bytes
from ddfast.store.layout import image_name, scan_folder
from ddfast.store.manifest import (
    FORMAT,
    LAYOUTS,
    MANIFEST_FILE,
    PARQUET_LAYOUT,
    SCHEMA_VERSION,
    current_versions,
    manifest_bytes,
    read_manifest,
    validate_manifest,
)
from ddfast.store.provenance import normalization_from_json
from ddfast.store.whitening import Whitening, read_whitening, write_whitening

_RESERVED = ("images", "labels")
_OF_FILES = ("whitening", "exported")  # what the manifest says of files that were written before


@dataclass
class DistilledSet:
    """A distilled set.

    ``images`` uint8 [N, H, W, 3] RGB; ``labels`` int64 [N] in 0 .. len(class_names) - 1; ``manifest`` as described in
    `ddfast.store.manifest`, empty if nothing is known; ``extras`` further tensors of a method, such as ``soft_logits``
    float [N, C] or ``lr``; ``whitening`` what students of a whitened set (ZCA) see pictures through, None for others:
    ``distilled.whitening.apply(images)`` whitens test pictures.

    Raises:
        TypeError: a tensor has another dtype.
        ValueError: a shape or label does not fit; the message names the argument.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    manifest: dict[str, Any] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        self.class_names = tuple(self.class_names)
        if self.images.dtype != torch.uint8:
            raise TypeError(f"images: got {self.images.dtype}, expected torch.uint8")
        if self.images.ndim != 4 or self.images.shape[3] != 3:
            raise ValueError(f"images: got shape {tuple(self.images.shape)}, expected [N, height, width, 3]")
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels: got {self.labels.dtype}, expected torch.int64")
        if self.labels.shape != self.images.shape[:1]:
            raise ValueError(f"labels: got shape {tuple(self.labels.shape)} for {len(self.images)} images")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.class_names):
            span = f"{int(self.labels.min())} .. {int(self.labels.max())}"
            raise ValueError(f"labels: got {span}, expected 0 .. {len(self.class_names) - 1} (the class_names)")
        if any(name in _RESERVED for name in self.extras):
            raise ValueError(f"extras: got {sorted(self.extras)}, expected names other than 'images' and 'labels'")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def counts(self) -> list[int]:
        """Images per class, in label order."""
        return torch.bincount(self.labels.cpu(), minlength=len(self.class_names)).tolist()

    @property
    def ipc(self) -> int:
        """Images per class; the largest count if classes differ."""
        return max(self.counts, default=0)

    @property
    def normalization(self) -> Normalization | None:
        """What students should use, from the manifest; None if unknown."""
        return normalization_from_json(self.manifest.get("normalization"))

    @property
    def trained_images(self) -> Tensor | None:
        """The images as a method trained them, float32 [N, 3, H, W], unrounded and in the space that students see:
        normalised, or whitened where ``manifest["space"]`` is "zca"; None for sets whose images are the 8-bit ones.

        Raises:
            ValueError: they are of another shape, no floats, or not finite.
        """
        found = self.extras.get("trained_images")
        if found is None or self.manifest.get("space") is None or self.formation.factor != 1:
            return None
        count, height, width, _ = self.images.shape
        if tuple(found.shape) != (count, 3, height, width) or not found.is_floating_point():
            raise ValueError(
                f"trained_images: got {found.dtype} {list(found.shape)}, expected floats [{count}, 3, {height}, "
                f"{width}]; make the set anew"
            )
        if not bool(torch.isfinite(found).all()):
            raise ValueError("trained_images: holds NaN or infinity; make the set anew, or take trained=False")
        return found.detach().cpu().float()

    @property
    def formation(self) -> Formation:
        """How the images are decoded before students train on them, from the manifest; into themselves if unknown."""
        return Formation.from_json(self.manifest.get("formation"))

    @property
    def stages(self) -> Tensor | None:
        """The stage of each image of a progressive set (PDD), int64 [N] from 0, from the manifest; None for others.

        Raises:
            ValueError: the manifest names other than one stage an image, or leaves a stage out.
        """
        found = self.manifest.get("stages")
        if found is None:
            return None
        stages = torch.tensor(found, dtype=torch.int64)
        last = int(stages.max()) if len(stages) else -1
        fits = stages.shape == self.labels.shape and last < len(stages)
        if not fits or stages.unique().tolist() != list(range(last + 1)):
            raise ValueError(
                f"manifest: stages: got {len(stages)} entries with {as_text(sorted(set(found)))} for {len(self)} "
                "images, expected the stage of each, from 0 without a gap"
            )
        return stages

    def stage_rows(self, stage: int, *, only: bool = False) -> Tensor:
        """int64: which images belong to stages 1 .. ``stage`` of a progressive set, or to this ``only``.

        Raises:
            ValueError: the set has no stages, or not so many.
        """
        stages = self.stages
        if stages is None:
            raise ValueError(f"stage: got {stage!r}, but the set has no stages; leave it out")
        count = int(stages.max()) + 1
        if not 1 <= stage <= count:
            raise ValueError(f"stage: got {stage!r}, expected 1 to {count}")
        return torch.nonzero(stages == stage - 1 if only else stages < stage)[:, 0]

    def decoded(self) -> DistilledSet:
        """The set that students train on: itself, or with a `formation` more images, each of a part of a stored one.

        Labels and per-image entries of extras (``soft_logits``) and manifest go along; bytes are those of the stored
        set and are left out.
        """
        if self.formation.factor == 1:
            return self
        images, sources = decode_bytes(self.images.cpu(), self.formation)
        extras = {name: extra for name, extra in self.extras.items() if name != "trained_images"}
        if "soft_logits" in extras:
            extras["soft_logits"] = extras["soft_logits"][sources]
        manifest = {key: value for key, value in self.manifest.items() if key not in ("formation", "bytes", "storage")}
        for key in ("images", "stages"):
            if len(manifest.get(key) or ()) == len(self):
                manifest[key] = [manifest[key][place] for place in sources.tolist()]
        return DistilledSet(images, self.labels[sources], self.class_names, manifest, extras, self.whitening)

    def __repr__(self) -> str:
        height, width = self.images.shape[1:3]
        method, source = self.manifest.get("method"), (self.manifest.get("source") or {}).get("name")
        of = "".join((f" by {method}" if method else "", f" of {source}" if source else ""))
        return f"<DistilledSet{of}: {len(self)} images {height}x{width} of {len(self.class_names)} classes>"

    def contact_sheet(self, path: str | os.PathLike[str]) -> Path:
        """Writes a PNG with the images of each class in a row (the first classes, when there are many)."""
        from ddfast.store.contact_sheet import contact_sheet_png

        target = Path(path)
        target.write_bytes(contact_sheet_png(self))
        return target

    def as_dataset(
        self, transform: Callable[[Any], Any] | None = None, *, kind: str = "pil", stage: int | None = None,
        only: bool = False,
    ) -> DistilledDataset:  # fmt: skip
        """The set as a torch ``Dataset`` of (image, label) with ``.targets``, ``.classes`` and ``.class_to_idx``.

        Images are the 8-bit ones; `dataloader` gives those of matching methods as they were trained.

        Args:
            transform: applied to each image.
            kind: what images are before the transform: "pil" (RGB ``PIL.Image``, as torchvision's data sets give) or
                "tensor" (uint8 [3, H, W]).
            stage: of a progressive set, the images of stages 1 to this one; None for all.
            only: the images of this stage alone.

        Raises:
            ValueError: ``kind`` is neither, or there is no such stage.
        """
        made, rows = self._decoded_rows(stage, only)
        images, labels = made.images[rows], made.labels[rows]
        return DistilledDataset(images, labels, self.class_names, transform, kind)

    def _decoded_rows(self, stage: int | None, only: bool) -> tuple[DistilledSet, Any]:
        """The decoded set, and its rows of all or some stages."""
        made = self.decoded()
        if stage is None:
            if only:
                raise ValueError("only: got True without a stage; say which")
            return made, slice(None)
        return made, made.stage_rows(stage, only=only)

    def dataloader(
        self, batch_size: int = 50, *, augment: bool = True, shuffle: bool = True, stage: int | None = None,
        only: bool = False, trained: bool | None = None, **options: Any,
    ) -> DataLoader[tuple[Tensor, Tensor]]:  # fmt: skip
        """A ready ``DataLoader`` of (images float32 [n, 3, H, W], labels int64 [n]).

        Images are `trained_images` where the set has them, whitened ones if it was distilled with ZCA (test pictures
        then go through ``whitening.apply``), else pixels normalised as the manifest says (by ImageNet's statistics
        where it says nothing).

        Augmentation is the plain part of a recipe: flips, shifts, and for mosaics random crops, drawn from torch's
        global generator. Digits are never mirrored, nor are sets whose recipe names augmentations without flips. What
        recipes have beside that (DSA, IDC's augmentation, CutMix, patch shuffle, a teacher's labels, the schedule)
        ``ddfast evaluate`` applies, and ``ddfast explain`` prints a loop.

        Args:
            batch_size: images of a batch.
            augment: False gives the plain images.
            shuffle: a new order each epoch.
            stage: of a progressive set, the images of stages 1 to this one, as a student trains on them stage after
                stage (``manifest["stage_lrs"][stage - 1]`` is the rate); None for all.
            only: the images of this stage alone.
            trained: False gives the normalised pixels of a set that has `trained_images`, True insists on these.
            **options: of ``torch.utils.data.DataLoader`` (``num_workers``, ``drop_last``, ``generator`` ...).

        Raises:
            ValueError: ``batch_size`` below 1, an empty set, no such stage, or no trained images.
        """
        from ddfast.store.loader import make_loader

        made, rows = self._decoded_rows(stage, only)
        images = made.images if trained is False else made.trained_images
        if images is None:
            if trained:
                raise ValueError("trained: got True, but the set has no trained images; leave it out")
            images = made.images
        return make_loader(
            images[rows], made.labels[rows], self.manifest, self.normalization, batch_size, augment=augment,
            shuffle=shuffle, **options,
        )  # fmt: skip

    def export(self, to: str, out: str | os.PathLike[str], **options: Any) -> Path:
        """Writes the set as other programs read it: see `ddfast.store.export.export`."""
        from ddfast.store.export import export

        return export(self, to, out, **options)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        format: str = "folder",
        jpeg_quality: int = 75,
        subsampling: str = "4:2:0",
        lossless: bool = False,
    ) -> Path:
        """Write the set to a new folder. The folder appears when all of it is written, or not at all.

        Tensors and manifest are flushed to the disk first, so that what the set was made of may be deleted then.

        Args:
            path: a folder that does not exist or is empty, or the folder of a ddfast run that has no manifest yet (the
                manifest then comes last).
            format: "folder" (``{class:05d}/class{class:05d}_id{id:05d}.jpg``, the RDED reference's layout) or
                "safetensors" (``images.safetensors`` with images, labels and extras; lossless).
            jpeg_quality, subsampling: for "folder"; the defaults are the reference's.
            lossless: write PNG instead of JPEG.

        Returns:
            The folder.

        Raises:
            FileExistsError: the folder holds something else.
            ValueError: an option or a manifest entry is not valid.
            OSError: the disk is full or read-only; nothing is left behind.
        """
        if format not in LAYOUTS:
            raise ValueError(f"format: got {format!r}, expected 'folder' or 'safetensors'")
        options = ImageFormat("png") if lossless else ImageFormat("jpeg", jpeg_quality, subsampling)
        target = Path(path)
        inside = is_open_run(target)
        if target.exists() and not inside and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"{target}: exists and is not an empty folder; choose another or delete it first")
        parent = target if inside else target.parent
        building = parent / temporary_name(target.name)
        try:
            building.mkdir(parents=True)
            files = self._folder_files(options) if format == "folder" else {}
            sizes = self._write(building, files, safetensors=format == "safetensors")
            manifest = self.described(format, options, list(files), sizes)
            if self.whitening is not None:
                manifest["whitening"] = write_whitening(building, self.whitening)
            (building / MANIFEST_FILE).write_bytes(manifest_bytes(manifest))
            flush(building / MANIFEST_FILE)
            flush(building)
            move_into_place(building, target, inside=inside)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, OSError):
                raise explain(error, target) from error
            raise
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a set that `save` or a method wrote, or an image folder without manifest (the RDED reference's output).

        Args:
            path: the folder.

        Raises:
            FileNotFoundError: no such folder.
            ValueError: an unfinished run, a damaged manifest or image, or images of different sizes; names file and
                key.
        """
        root = Path(path)
        if not root.is_dir():
            raise FileNotFoundError(
                f"{root}: no such folder, expected one with {MANIFEST_FILE} or one folder per class"
            )
        if os.path.lexists(root / MANIFEST_FILE):
            return cls._load_described(root, read_manifest(root / MANIFEST_FILE))
        if (root / RUN_FILE).exists():
            raise ValueError(
                f"{root}: the run is not finished (no {MANIFEST_FILE}); run its command with --resume first"
            )
        names, targets, class_names = scan_folder(root)
        return cls(read_images(root, names), torch.tensor(targets, dtype=torch.int64), class_names)

    def described(
        self, layout: str, image_format: ImageFormat, files: list[str], sizes: Mapping[str, int]
    ) -> dict[str, Any]:
        """The manifest for files written now: what is known, with layout, files and bytes brought up to date.

        Args:
            layout: "folder", "safetensors", or "parquet" for an export.
            image_format: how images are written in a folder or table.
            files: the file of each image in the set's order; none for safetensors.
            sizes: bytes of each file written.

        Raises:
            ValueError: the manifest describes another number of images.
        """
        known = self.manifest.get("images") or [{"cells": []}] * len(self)
        if len(known) != len(self):
            raise ValueError(
                f"manifest: images: got {len(known)} entries for {len(self)} images; empty it or make it fit"
            )
        labels = self.labels.tolist()
        names: list[str | None] = [*files] or [None] * len(self)
        pixels = self.images[0].numel() if len(self) else 0
        per_class = [0] * len(self.class_names)
        for name, label in zip(names, labels, strict=True):
            per_class[label] += pixels if name is None else sizes[name]
        raw = layout == "safetensors"
        extras = sum(extra.numel() * extra.element_size() for extra in self.extras.values())
        return validate_manifest(
            {
                **_UNKNOWN,
                "versions": current_versions(),
                **{key: value for key, value in self.manifest.items() if key not in _OF_FILES},
                "format": FORMAT,
                "schema_version": SCHEMA_VERSION,
                "class_names": list(self.class_names),
                "resolution": list(self.images.shape[1:3]),
                "ipc": self.ipc,
                "storage": {"layout": layout, "image_format": None if raw else image_format.as_json()},
                "bytes": {
                    "images": sum(per_class),
                    "labels": 0 if layout == "folder" else 8 * len(self),
                    "extras": extras,
                    "manifest": 0,
                    "per_class": per_class,
                },
                "failures": self.manifest.get("failures", []),
                "images": [
                    {"file": name, "label": label, "cells": entry["cells"]}
                    for name, label, entry in zip(names, labels, known, strict=True)
                ],
            }
        )

    def _folder_files(self, options: ImageFormat) -> dict[str, bytes]:
        if len(self.class_names) > 100_000:
            raise ValueError(f"class_names: got {len(self.class_names)}, a folder holds at most 100000 classes")
        used = [0] * len(self.class_names)
        names = []
        for label in self.labels.tolist():
            names.append(image_name(label, used[label], options.suffix))
            used[label] += 1
        arrays = self.images.detach().cpu().numpy()
        with ThreadPoolExecutor(threads()) as pool:
            return dict(zip(names, pool.map(options.encode, arrays), strict=True))

    def _write(self, folder: Path, files: Mapping[str, bytes], *, safetensors: bool) -> dict[str, int]:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        extras = {name: extra.detach().cpu().contiguous() for name, extra in self.extras.items()}
        if safetensors:
            tensors = {"images": self.images.cpu().contiguous(), "labels": self.labels.cpu().contiguous(), **extras}
            write_tensors(folder / IMAGES_FILE, tensors)
        elif extras:
            write_tensors(folder / EXTRAS_FILE, extras)
        return {name: len(data) for name, data in files.items()}

    @classmethod
    def _load_described(cls, root: Path, manifest: dict[str, Any]) -> DistilledSet:
        if manifest["storage"]["layout"] == PARQUET_LAYOUT:
            raise ValueError(
                f"{root}: is an export for Hugging Face; read it with datasets.load_dataset, or load the set itself or "
                "its export to imagefolder"
            )
        entries = manifest["images"]
        labels = torch.tensor([entry["label"] for entry in entries], dtype=torch.int64)
        if manifest["storage"]["layout"] == "safetensors":
            extras = read_tensors(root / IMAGES_FILE)
            if any(name not in extras for name in _RESERVED):
                raise ValueError(f"{root / IMAGES_FILE}: got tensors {sorted(extras)}, expected images and labels")
            images, stored = extras.pop("images"), extras.pop("labels")
            if stored.dtype != labels.dtype or not torch.equal(stored, labels):
                raise ValueError(f"{root / IMAGES_FILE}: labels differ from those in {MANIFEST_FILE}")
        else:
            images = read_images(root, [entry["file"] for entry in entries], tuple(manifest["resolution"]))
            extras = read_tensors(root / EXTRAS_FILE) if (root / EXTRAS_FILE).exists() else {}
        if images.ndim != 4 or list(images.shape[1:3]) != list(manifest["resolution"]):
            raise ValueError(
                f"{root / MANIFEST_FILE}: resolution: got {manifest['resolution']}, the images have "
                f"{list(images.shape[1:3])}"
            )
        whitening = read_whitening(root, manifest.get("whitening"), 3 * images.shape[1] * images.shape[2])
        return cls(images, labels, tuple(manifest["class_names"]), manifest, extras, whitening)


def save(distilled: DistilledSet, path: str | os.PathLike[str], **options: Any) -> Path:
    """`DistilledSet.save` as a function."""
    return distilled.save(path, **options)


def load(path: str | os.PathLike[str]) -> DistilledSet:
    """`DistilledSet.load` as a function."""
    return DistilledSet.load(path)


_UNKNOWN: dict[str, Any] = {
    "format": FORMAT,
    "schema_version": SCHEMA_VERSION,
    "method": None,
    "preset": None,
    "config": {},
    "source": None,
    "observer": None,
    "seed": None,
    "versions": {},
    "normalization": None,
}
