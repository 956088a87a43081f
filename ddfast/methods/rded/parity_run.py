"""A parity run: the same ledger and files as any run, with the reference's own random stream and arithmetic."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddfast._types import IMAGENET
from ddfast.data import Source, require_images
from ddfast.data.folder import FolderSource
from ddfast.methods._options import RunOptions
from ddfast.methods._output import class_tasks, is_complete, tidy_classes
from ddfast.methods.rded import output, parity
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.observer import Prepared
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs import Ledger, Progress, open_ledger
from ddfast.runs.sharing import unless
from ddfast.store import Cell, class_record

_POLL = 1.0  # seconds between two looks while other workers hold all that is left


def run(source: Source, out: Path, config: RDEDConfig, options: RunOptions, observer: Any = None) -> None:
    """Reproduces the reference's files for a seeded run; see :mod:`ddfast.methods.rded.parity`.

    ``observer`` may be a model name, a file, a module, or a function that builds a module (called after seeding, so
    that its random initialisation draws from the same stream as in the reference).  Runs on the CPU; of the options,
    only ``shard``, ``resume``, ``overwrite`` and ``quiet`` matter.

    Raises:
        ValueError: a source that is not class folders, or fewer than ``mipc`` files in a folder.
    """
    if not isinstance(source, FolderSource):
        raise ValueError(f"parity: got source {source.name!r}, expected class folders on disk")
    if (config.rounding, config.format, config.jpeg_quality) != ("truncate", "folder", 75):
        raise ValueError("parity: needs rounding='truncate', format='folder' and jpeg_quality=75, as the reference")
    require_images(source, config.mipc, f"parity with mipc={config.mipc}")
    prepared, generator = _prepare(source, config, observer)
    settings = output.settings(source, config, prepared.observer)
    with open_ledger(
        out, class_tasks(source), settings,
        worker=options.worker(), resume=options.resume, overwrite=options.overwrite,
    ) as ledger:  # fmt: skip
        begun, mode = generator.get_state(), "quiet" if options.quiet else "auto"
        with Progress(
            len(ledger.tasks), done=len(ledger.records()), unit="classes", title="rded (parity)", mode=mode
        ) as progress:
            while not ledger.finished():
                generator.set_state(begun)
                _pass(source, config, prepared, generator, ledger, progress)
                _wait(ledger)  # a pass reads the headers of all pictures, which is too much for looking
        with unless(lambda: is_complete(ledger, out)):
            output.finish(ledger, out, source, config, prepared, stream_exact=True)
        tidy_classes(ledger, out, config.format)


def _pass(
    source: FolderSource, config: RDEDConfig, prepared: Prepared, generator: torch.Generator, ledger: Ledger,
    progress: Progress,
) -> None:  # fmt: skip
    """Once through all classes, whose draws follow one another; does those that are free."""
    items = parity.classes([source.folder(c) for c in range(len(source.class_names))], config, generator)
    for item, name in zip(items, ledger.tasks, strict=True):
        claimed = ledger.claim_next([name])
        if claimed is None:
            continue
        with claimed as task:
            result = parity.distill_class(item, prepared.observer.module, config, prepared.targets[item.label])
            files = output.class_files(item.label, result.mosaics, config)
            for path, data in files.items():
                task.write_bytes(path, data)
            task.complete(_record(source, item, result, files, config))
        progress.update()


def _wait(ledger: Ledger) -> None:
    """While all that is left is held by other workers that live."""
    left = [name for name in ledger.tasks if not ledger.completed(name)]
    while left and all(map(ledger.busy, left)):
        time.sleep(_POLL)
        left = [name for name in left if not ledger.completed(name)]


def _prepare(source: Source, config: RDEDConfig, given: Any) -> tuple[Prepared, torch.Generator]:
    """The observer, and torch's generator in the state in which the reference's construction of it leaves it."""
    spec = config.observer if given is None else given
    if callable(spec) and not isinstance(spec, nn.Module):
        module, generator = parity.seeded_observer(spec, config.seed)
        observer = _load(module, config)
    else:
        observer = spec if isinstance(spec, Observer) else _load(spec, config)
        name = observer.name if isinstance(spec, str) else ""
        _, generator = parity.seeded_observer(partial(_construct_as_reference, name, observer, source), config.seed)
    targets = tuple(map_classes(source.class_names, observer.num_classes, observer.class_names).tolist())
    return Prepared(observer, targets, {"skipped": "parity"}), generator


def _load(spec: Any, config: RDEDConfig) -> Observer:
    if spec is None:
        raise ValueError("observer: none given; parity needs a model name, a checkpoint file or a module")
    return load_observer(
        spec, weights=config.weights, input_size=config.size, random_weights=config.random_weights,
        normalization=IMAGENET,
    )  # fmt: skip


def _construct_as_reference(name: str, observer: Observer, source: Source) -> None:
    """Builds what the reference builds before it loads weights, only to draw the same random numbers.

    A ConvNet is built for its classes; a torchvision network always with 1000 outputs, and a second time for
    ImageNet-1K.  A module that the caller built draws nothing.
    """
    if not name:
        return
    if name.startswith("conv"):
        load_observer(name, num_classes=observer.num_classes, input_size=observer.input_size, random_weights=True)
        return
    for _ in range(2 if len(source.class_names) == 1000 else 1):
        load_observer(name, num_classes=1000, input_size=observer.input_size, random_weights=True)


def _record(
    source: FolderSource,
    item: parity.ParityClass,
    result: parity.ParityResult,
    files: dict[str, bytes],
    config: RDEDConfig,
) -> dict[str, Any]:
    cells = []
    for i, k, loss in zip(result.chosen, result.crops, result.losses, strict=True):
        top, left, side = item.boxes[i][k]
        cells.append(Cell(f"{source.class_names[item.label]}/{item.files[i].name}", (top, left, side, side), loss))
    rows = [[cells[j + config.ipc * k] for k in range(config.factor**2)] for j in range(config.ipc)]
    return {**class_record(item.label, files, rows), "rescored": {}, "changed": 0}
