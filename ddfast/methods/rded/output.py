"""From the records of finished classes to the distilled set on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast.data import Source
from ddfast.methods._observer import observer_names
from ddfast.methods._output import finish_classes
from ddfast.methods._output import image_format as stored_as
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.observer import Prepared
from ddfast.methods.rded.stages import Chosen
from ddfast.nets.observers import Observer
from ddfast.runs import Ledger
from ddfast.store import Cell, ImageFormat, assemble_manifest
from ddfast.store import class_files as image_files
from ddfast.store import class_record as image_record
from ddfast.train.small_observer import SmallObserver


def config_json(config: RDEDConfig) -> dict[str, Any]:
    """The config as JSON values; files by name only, since the observer's entry has their contents' SHA-256."""
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    del values["preset"]
    return {**values, **observer_names(config)}


def settings(source: Source, config: RDEDConfig, observer: Observer | SmallObserver) -> dict[str, Any]:
    """Everything that decides the result: a run may be resumed only with the same."""
    return {
        "method": "rded",
        "config": config_json(config),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "observer": {"name": observer.name, "weights": observer.weights},
    }


def image_format(config: RDEDConfig) -> ImageFormat:
    """How a class's images are stored during the run."""
    return stored_as(config.format, config.jpeg_quality)


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
    """Writes the manifest once every class is done; doing it again changes nothing."""
    finish_classes(
        ledger, out, source.class_names, config.format,
        lambda records: _manifest(records, source, config, prepared, stream_exact),
    )  # fmt: skip


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
