"""A coreset from start to finish: every class is one task of the run's ledger; features of one class are in memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddfast import _machine
from ddfast._types import IMAGENET
from ddfast.data import CropRequest, Source, Stream, open_stream, require_images
from ddfast.data.space import known_normalization
from ddfast.methods._observer import FOLDER, observer_names, open_observer, trained_observer
from ddfast.methods._options import RunOptions
from ddfast.methods._output import class_tasks, finish_classes, image_format, is_complete, tidy_classes, unread_words
from ddfast.methods.coreset import forgetting, selection
from ddfast.methods.coreset.config import CoresetConfig
from ddfast.methods.coreset.pictures import draw_squares, take
from ddfast.nets.features import Features
from ddfast.nets.observers import Observer
from ddfast.runs import Ledger, Progress, Task, open_ledger, refuse_occupied, seeds
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.sharing import unless
from ddfast.store import Cell, assemble_manifest, class_files, class_record
from ddfast.train.small_observer import SmallObserver

BATCH = 128
"""Pictures of a forward; a constant, since the last bits of features may depend on it."""
Order = Callable[[int], tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, str]]]]
"""Positions of a class, best first, with their scores; and (sample, reason) of pictures known to be unreadable."""


def run(source: Source, out: Path, config: CoresetConfig, options: RunOptions, given: Any = None) -> None:
    """Chooses pictures of ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: no observer where one is needed, forgetting scores of another source, or a class has too few
            readable pictures.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    worker = options.worker()
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
    require_images(source, config.ipc, f"ipc={config.ipc}")
    planned = open_observer(source, config, given, input_size=config.input_size) if config.by_features else None
    settings = _settings(source, config, planned)
    threads = _machine.cores() if options.workers is None else options.workers
    stream = open_stream(options.stream, workers=threads, device=options.torch_device())
    try:
        with open_ledger(
            out, class_tasks(source), settings, worker=worker, resume=options.resume, overwrite=options.overwrite,
            outputs=(*DEFAULT_OUTPUTS, forgetting.FOLDER, FOLDER),
        ) as ledger:  # fmt: skip
            if is_complete(ledger, out):
                if not options.quiet:
                    print(f"coreset: the run in {out} was complete already", file=sys.stderr)
            else:
                with unless(lambda: is_complete(ledger, out)):
                    observer = None
                    if planned is not None:
                        observer = trained_observer(planned, out, options, lambda: not is_complete(ledger, out))
                    if not ledger.finished():
                        order = None if config.by_features else _order(source, stream, config, options, out)
                        _Run(source, stream, config, options, ledger, observer, order).all()
                    forgetting.keep_scores(out)
                    finish_classes(
                        ledger, out, source.class_names, config.format,
                        lambda records: _manifest(records, source, config, observer, settings, exact=stream.exact),
                    )  # fmt: skip
            tidy_classes(ledger, out, config.format)
    finally:
        stream.close()


class _Run:
    """The classes of one run that are not done yet."""

    def __init__(
        self, source: Source, stream: Stream, config: CoresetConfig, options: RunOptions, ledger: Ledger,
        observer: Observer | None, order: Order | None,
    ) -> None:  # fmt: skip
        self.source, self.stream, self.config, self.options = source, stream, config, options
        self.ledger, self.observer, self.order = ledger, observer, order
        self.labels = {name: label for label, name in enumerate(ledger.tasks)}
        self.held: dict[int, Task] = {}

    def all(self) -> None:
        """Works until every class is done, by this worker or another."""
        each = [self._pictures(label) for label in range(len(self.labels))]
        done = sum(each[self.labels[task]] for task in self.ledger.records())
        with Progress(
            sum(each), done=done, unit="images", title=f"coreset {self.config.selection}",
            mode="quiet" if self.options.quiet else "auto", callback=self.options.on_progress,
        ) as progress:  # fmt: skip
            while not self.ledger.finished():
                if self.order is None:
                    self._by_features(progress)
                else:
                    self._by_order(progress, self.order)
                if not self.ledger.finished():  # what is left is held by other workers
                    time.sleep(1.0)

    def _pictures(self, label: int) -> int:
        return self.source.count(label) if self.order is None else self.config.ipc

    def _by_order(self, progress: Progress, order: Order) -> None:
        for label in self._claimed():
            positions, scores, failures = order(label)
            self._write(label, positions, dict(zip(positions.tolist(), scores.tolist(), strict=True)), failures)
            progress.update(self.config.ipc, f"class {self.source.class_names[label]}")

    def _by_features(self, progress: Progress) -> None:
        if self.observer is None:
            raise ValueError(f"observer: none given, but selection {self.config.selection} looks at features")
        features = Features(self.observer, self.options.torch_device())
        side = self.observer.input_size
        request = CropRequest((side, side), 1, self.observer.normalization)
        groups = ((label, np.arange(self.source.count(label))) for label in self._claimed())
        batches = self.stream.crops(self.source, groups, request, draw_squares, batch_images=BATCH)
        rows: list[NDArray[np.float32]] = []
        positions: list[int] = []
        failures: list[tuple[str, str]] = []
        try:
            for batch in batches:
                if len(batch.positions):
                    rows.append(features(batch.crops).numpy())
                positions += batch.positions.tolist()
                failures += [(failure.sample_id, failure.reason) for failure in batch.failures]
                self._strict(failures)
                progress.update(
                    len(batch.positions) + len(batch.failures), f"class {self.source.class_names[batch.label]}"
                )
                if batch.last:
                    self._enough(batch.label, len(positions), failures)
                    order, scores = self._choose(batch.label, np.concatenate(rows))
                    chosen = np.array(positions)[order]
                    scored = dict(zip(chosen.tolist(), scores.tolist(), strict=True))
                    self._write(batch.label, chosen, scored, failures)
                    rows, positions, failures = [], [], []
        finally:
            close = getattr(batches, "close", None)
            if close:
                close()

    def _choose(self, label: int, features: NDArray[np.float32]) -> selection.Picks:
        if not np.isfinite(features).all():
            raise ValueError(
                f"class {self.source.class_names[label]}: the observer's features are not finite; check its weights "
                "and normalisation"
            )
        if self.config.normalize == "l2":
            features = selection.normalized(features)
        pick = selection.herding if self.config.selection == "herding" else selection.k_center
        return pick(features, self.config.ipc)

    def _claimed(self) -> Iterator[int]:
        """Claims class after class as they are asked for."""
        while (task := self.ledger.claim_next()) is not None:
            label = self.labels[task.id]
            self.held[label] = task
            yield label

    def _write(
        self, label: int, order: NDArray[np.int64], scores: dict[int, float], failures: list[tuple[str, str]]
    ) -> None:
        config = self.config
        with self.held.pop(label) as task:
            found = take(self.source, self.stream, label, order, config.ipc, config.size)
            failures = failures + found.failures
            self._strict(failures)
            self._enough(label, len(found.images), failures)
            files = class_files(label, torch.stack(found.images), image_format(config.format, config.jpeg_quality))
            cells = [
                [Cell(self.source.sample_id(label, position), box, scores[position])]  # type: ignore[arg-type]
                for position, box in zip(found.positions, found.boxes, strict=True)
            ]
            for name, data in files.items():
                task.write_bytes(name, data)
            task.complete(class_record(label, files, cells, failures))

    def _strict(self, failures: list[tuple[str, str]]) -> None:
        if failures and self.options.strict:
            raise ValueError(f"strict: {failures[0][0]}: {failures[0][1]}")

    def _enough(self, label: int, readable: int, failures: list[tuple[str, str]]) -> None:
        if readable < self.config.ipc:
            unread, repair = unread_words([sample for sample, _ in failures])
            raise ValueError(
                f"class {self.source.class_names[label]}: {readable} readable pictures, but ipc={self.config.ipc}: "
                f"{self.config.ipc - readable} missing{unread}; {repair}{'or ' if repair else ''}lower ipc"
            )


def _order(source: Source, stream: Stream, config: CoresetConfig, options: RunOptions, out: Path) -> Order:
    if config.selection == "forgetting":
        found = forgetting.find_forgotten(source, stream, config, options, out)
        return lambda label: (*found.order(label), found.failures[label])

    def shuffled(label: int) -> tuple[NDArray[np.int64], NDArray[np.float64], list[tuple[str, str]]]:
        order = seeds.permutation(config.seed, "coreset/random", label, source.count(label))
        return order, np.zeros(len(order)), []

    return shuffled


def _settings(source: Source, config: CoresetConfig, observer: Observer | SmallObserver | None) -> dict[str, Any]:
    """Everything that decides the result: a run may be resumed only with the same."""
    return {
        "method": "coreset",
        "config": _config_json(config),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "observer": None if observer is None else {"name": observer.name, "weights": observer.weights},
        "scores": forgetting.scores_sha256(config),
    }


def _config_json(config: CoresetConfig) -> dict[str, Any]:
    values = {**asdict(config), **observer_names(config)}
    del values["preset"]
    if not config.by_features:  # so that they count neither here nor for who resumes
        values |= {"observer": None, "weights": None}
    values["scores"] = Path(config.scores).name if config.scores else None
    return values


def _manifest(
    records: list[dict[str, Any]], source: Source, config: CoresetConfig, observer: Observer | None,
    settings: dict[str, Any], *, exact: bool,
) -> dict[str, Any]:  # fmt: skip
    if observer is not None:
        normalization = observer.normalization
    else:
        normalization = known_normalization(source.name, source.class_names) or IMAGENET
    described = assemble_manifest(
        records,
        class_names=source.class_names,
        resolution=(config.size, config.size),
        method="coreset",
        preset=config.preset,
        config=settings["config"],
        source=settings["source"],
        observer=None if observer is None else {
            "name": observer.name, "weights": observer.weights, "input_size": observer.input_size,
            "random_weights": observer.random_weights,
        },
        seed=config.seed,
        normalization=normalization,
        image_format=image_format(config.format, config.jpeg_quality),
    )  # fmt: skip
    described["selection"] = {"kind": config.selection, "exact_pixels": exact, "scores": settings["scores"]}
    return described
