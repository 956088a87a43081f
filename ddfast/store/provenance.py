"""Where the pixels came from: records of finished classes, and the manifest made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ddfast._types import Normalization
from ddfast.store.codec import ImageFormat
from ddfast.store.manifest import FORMAT, SCHEMA_VERSION, current_versions, score_to_json, validate_manifest


@dataclass(frozen=True)
class Cell:
    """One patch of a mosaic: source sample, box (top, left, height, width) in its pixels, and the observer's loss."""

    sample: str
    box: tuple[int, int, int, int]
    score: float

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"sample": self.sample, "box": [int(side) for side in self.box], "score": score_to_json(self.score)}


def class_record(
    label: int,
    files: Mapping[str, bytes],
    cells: Sequence[Sequence[Cell]] = (),
    failures: Iterable[tuple[str, str]] = (),
) -> dict[str, Any]:
    """What the manifest needs of one finished class, as JSON values for a ledger's done record.

    Args:
        label: class index.
        files: the class's image files in order, from `class_files`.
        cells: for each file its cells in row-major order; empty if a method has no patches.
        failures: (sample, reason) of source files that were skipped.

    Raises:
        ValueError: ``cells`` is neither empty nor one sequence per file.
    """
    if len(cells) not in (0, len(files)):
        raise ValueError(f"cells: got {len(cells)} entries for {len(files)} files, expected one per file or none")
    per_file: Sequence[Sequence[Cell]] = cells if len(cells) else [()] * len(files)
    images = [
        {"file": name, "label": int(label), "cells": [cell.as_json() for cell in row]}
        for name, row in zip(files, per_file, strict=True)
    ]
    skipped = [{"label": int(label), "sample": sample, "reason": reason} for sample, reason in failures]
    return {"label": int(label), "bytes": sum(map(len, files.values())), "images": images, "failures": skipped}


def assemble_manifest(
    records: Iterable[Mapping[str, Any]],
    *,
    class_names: Sequence[str],
    resolution: tuple[int, int],
    method: str | None = None,
    preset: str | None = None,
    config: Mapping[str, Any] | None = None,
    source: Mapping[str, Any] | None = None,
    observer: Mapping[str, Any] | None = None,
    seed: int | None = None,
    normalization: Normalization | None = None,
    image_format: ImageFormat | None = None,
    versions: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The manifest of an image folder, from the records of its classes.

    Args:
        records: one `class_record` per class, in any order.
        class_names: the index is the label.
        resolution: (height, width) of the images in pixels.
        method, preset, config, source, observer, seed: see `ddfast.store.manifest`.
        normalization: what students should use.
        image_format: how the files were written; None for the reference's JPEG.
        versions: None for those of the running process.

    Returns:
        A valid manifest, for `manifest_bytes`.

    Raises:
        ValueError: a class has two records or none, or a value is not valid (the message names the key).
    """
    by_label: dict[int, Mapping[str, Any]] = {}
    for record in records:
        if record["label"] in by_label:
            raise ValueError(f"records: label {record['label']} occurs twice, expected one record per class")
        by_label[record["label"]] = record
    if sorted(by_label) != list(range(len(class_names))):
        raise ValueError(
            f"records: got labels {sorted(by_label)[:10]}, expected each of 0 .. {len(class_names) - 1} once"
        )
    ordered = [by_label[label] for label in range(len(class_names))]
    per_class = [int(record["bytes"]) for record in ordered]
    manifest = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "method": method,
        "preset": preset,
        "config": dict(config or {}),
        "source": None if source is None else dict(source),
        "observer": None if observer is None else dict(observer),
        "seed": seed,
        "versions": current_versions() if versions is None else dict(versions),
        "normalization": normalization_to_json(normalization),
        "resolution": [int(side) for side in resolution],
        "ipc": max((len(record["images"]) for record in ordered), default=0),
        "storage": {"layout": "folder", "image_format": (image_format or ImageFormat()).as_json()},
        "bytes": {"images": sum(per_class), "labels": 0, "extras": 0, "manifest": 0, "per_class": per_class},
        "class_names": list(class_names),
        "failures": [failure for record in ordered for failure in record["failures"]],
        "images": [image for record in ordered for image in record["images"]],
    }
    return validate_manifest(manifest)


def normalization_to_json(normalization: Normalization | None) -> dict[str, list[float]] | None:
    """A normalisation for the manifest."""
    return None if normalization is None else {"mean": list(normalization.mean), "std": list(normalization.std)}


def normalization_from_json(value: Mapping[str, Any] | None) -> Normalization | None:
    """The inverse of `normalization_to_json`.

    Raises:
        ValueError: not three means and three positive standard deviations.
    """
    if value is None:
        return None
    try:
        mean, std = (tuple(float(item) for item in value[key]) for key in ("mean", "std"))
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"normalization: got {value!r}, expected mean and std with three numbers each") from None
    return Normalization(mean, std)  # type: ignore[arg-type]
