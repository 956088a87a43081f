"""From the records of finished classes to the distilled set on disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddfast.data import Source
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.observer import Prepared
from ddfast.methods.rded.stages import Chosen
from ddfast.nets.observers import Observer
from ddfast.runs import Ledger, atomic_write_bytes
from ddfast.store import Cell, DistilledSet, ImageFormat, assemble_manifest, decode_image, manifest_bytes
from ddfast.store import class_files as image_files
from ddfast.store import class_record as image_record
from ddfast.store.manifest import MANIFEST_FILE


def task_names(source: Source) -> list[str]:
    """One task a class."""
    return [f"class-{label:05d}" for label in range(len(source.class_names))]


def config_json(config: RDEDConfig) -> dict[str, Any]:
    """The config as JSON values; files by name only, since the observer's entry has their contents' SHA-256."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    del values["preset"]
    values["observer"] = Path(config.observer).name if config.observer else None
    values["weights"] = Path(config.weights).name if config.weights else None
    return values


def settings(source: Source, config: RDEDConfig, observer: Observer) -> dict[str, Any]:
    """Everything that decides the result: a run may be resumed only with the same."""
    return {
        "method": "rded",
        "config": config_json(config),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "observer": {"name": observer.name, "weights": observer.weights},
    }


def image_format(config: RDEDConfig) -> ImageFormat:
    """How a class's images are stored during the run; safetensors is assembled from lossless files at the end."""
    return ImageFormat("jpeg", config.jpeg_quality) if config.format == "folder" else ImageFormat("png")


def class_files(label: int, mosaics: NDArray[np.uint8], config: RDEDConfig) -> dict[str, bytes]:
    """File names and contents of a finished class."""
    return image_files(label, mosaics, image_format(config))


def class_record(chosen: Chosen, files: Mapping[str, bytes], source: Source, config: RDEDConfig) -> dict[str, Any]:
    """What the manifest needs to know of a finished class."""
    cells = config.factor**2
    sample = [source.sample_id(chosen.label, int(p)) for p in chosen.positions]
    rows = [
        [
            Cell(sample[r], tuple(int(v) for v in chosen.boxes[r]), float(chosen.losses[r]))  # type: ignore[arg-type]
            for r in (j + config.ipc * k for k in range(cells))
        ]
        for j in range(config.ipc)
    ]
    failures = [(failure.sample_id, failure.reason) for failure in chosen.failures]
    rescored = {level.name: level.scored for level in chosen.levels[1:]}
    return {**image_record(chosen.label, files, rows, failures), "rescored": rescored, "changed": chosen.changed}


def finish(
    ledger: Ledger, out: Path, source: Source, config: RDEDConfig, prepared: Prepared, *, stream_exact: bool
) -> None:
    """Writes the manifest once every class is done and tidies the folder; doing it again changes nothing."""
    if not (out / MANIFEST_FILE).exists():
        _write(ledger, out, source, config, prepared, stream_exact)
    ledger.finish(keep_files=config.format != "safetensors")
    if config.format == "safetensors":
        for folder in out.glob("[0-9][0-9][0-9][0-9][0-9]"):
            shutil.rmtree(folder)


def _write(
    ledger: Ledger, out: Path, source: Source, config: RDEDConfig, prepared: Prepared, stream_exact: bool
) -> None:
    records = [done.record for done in ledger.records().values()]
    manifest = _manifest(records, source, config, prepared, stream_exact)
    if config.format != "safetensors":
        atomic_write_bytes(out / MANIFEST_FILE, manifest_bytes(manifest))
        return
    # The manifest is written last, by save: whoever finds one finds the images too.
    images = np.stack([decode_image((out / entry["file"]).read_bytes()) for entry in manifest["images"]])
    labels = torch.tensor([entry["label"] for entry in manifest["images"]], dtype=torch.int64)
    distilled = DistilledSet(torch.from_numpy(images), labels, tuple(source.class_names), manifest)
    distilled.save(out, format="safetensors")


def _manifest(
    records: list[dict[str, Any]], source: Source, config: RDEDConfig, prepared: Prepared, stream_exact: bool
) -> dict[str, Any]:
    observer = prepared.observer
    manifest = assemble_manifest(
        records,
        class_names=source.class_names,
        resolution=(config.size, config.size),
        method="rded",
        preset=config.preset,
        config=config_json(config),
        source={"name": source.name, "fingerprint": source.fingerprint()},
        observer={
            "name": observer.name, "weights": observer.weights, "input_size": observer.input_size,
            "random_weights": observer.random_weights, "class_check": prepared.class_check,
            "outputs": list(prepared.targets),
        },
        seed=config.seed,
        normalization=observer.normalization,
        image_format=image_format(config),
    )  # fmt: skip
    manifest["selection"] = {
        "rescored": _totals(records),
        "changed": sum(record["changed"] for record in records),
        "exact_pixels": stream_exact,
    }
    return manifest


def _totals(records: list[dict[str, Any]]) -> dict[str, int]:
    names = sorted({name for record in records for name in record["rescored"]})
    return {name: sum(record["rescored"].get(name, 0) for record in records) for name in names}
