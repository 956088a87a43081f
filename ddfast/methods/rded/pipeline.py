"""RDED from start to finish: every class is one task of the run's ledger, scored as its pictures stream in."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast import _machine
from ddfast.data import CropRequest, Source, Stream, draw_rrc_boxes, open_stream, require_images
from ddfast.methods._observer import FOLDER, open_observer, trained_observer
from ddfast.methods._options import RunOptions
from ddfast.methods._output import class_tasks, is_complete, tidy_classes
from ddfast.methods.rded import output, parity_run, stages
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.finisher import Finisher
from ddfast.methods.rded.observer import Prepared, prepare_observer
from ddfast.methods.rded.report import Report
from ddfast.methods.rded.scorer import Scorer, draw_positions
from ddfast.nets.observers import Observer
from ddfast.runs import Ledger, Progress, Task, open_ledger, refuse_occupied
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.sharing import unless


def run(source: Source, out: Path, config: RDEDConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: settings, source and observer do not fit together, or a class has too few readable pictures.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    worker = options.worker()
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
    if config.parity:
        parity_run.run(source, out, config, options, observer)
        return
    require_images(source, config.patches, f"ipc={config.ipc} with factor={config.factor}")
    threads = _machine.cores() if options.workers is None else options.workers
    stream = open_stream(options.stream, workers=threads, device=options.torch_device())
    report = Report(config, options)
    try:
        with report.stage("observer"):
            planned = open_observer(source, config, observer)
            # before there is a folder, unless it is still to be trained in there
            known = prepare_observer(source, stream, options, planned) if isinstance(planned, Observer) else None
        with report.stage("listing the source"):
            settings = output.settings(source, config, planned)
        with open_ledger(
            out, class_tasks(source), settings, worker=worker, resume=options.resume, overwrite=options.overwrite,
            outputs=(*DEFAULT_OUTPUTS, FOLDER),
        ) as ledger:  # fmt: skip
            if not is_complete(ledger, out):
                with unless(lambda: is_complete(ledger, out)):
                    with report.stage("observer"):
                        observer = trained_observer(planned, out, options, lambda: not is_complete(ledger, out))
                        prepared = known or prepare_observer(source, stream, options, observer)
                    _work(source, stream, config, options, ledger, report, prepared)
                    with report.stage("manifest"):
                        output.finish(ledger, out, source, config, prepared, stream_exact=stream.exact)
            tidy_classes(ledger, out, config.format)
    finally:
        stream.close()
    if not options.quiet:
        report.show(out, len(source.class_names))


def _work(
    source: Source, stream: Stream, config: RDEDConfig, options: RunOptions, ledger: Ledger, report: Report,
    prepared: Prepared,
) -> None:  # fmt: skip
    """Until every class is done, by this worker or another."""
    if not ledger.finished():
        with report.stage("calibration"):
            scorer = Scorer(source, stream, prepared.observer, config, options, prepared.targets)
        _Run(source, stream, scorer, config, options, ledger, report).all()


class _Run:
    """The classes of one run that are not done yet, scored here and finished beside it."""

    def __init__(
        self, source: Source, stream: Stream, scorer: Scorer, config: RDEDConfig, options: RunOptions, ledger: Ledger,
        report: Report,
    ) -> None:  # fmt: skip
        self.source, self.stream, self.scorer = source, stream, scorer
        self.config, self.options, self.ledger, self.report = config, options, ledger, report
        self.labels = {name: label for label, name in enumerate(ledger.tasks)}
        self.held: dict[int, Task] = {}

    def all(self) -> None:
        """Works until every class is done, by this worker or another."""
        done = len(self.ledger.records())
        counts = [min(self.config.mipc, self.source.count(label)) for label in range(len(self.labels))]
        progress = Progress(
            sum(counts), done=sum(counts[self.labels[t]] for t in self.ledger.records()), unit="images", title="rded",
            mode="quiet" if self.options.quiet else "auto", callback=self.options.on_progress,
        )  # fmt: skip
        self.report.classes(len(counts) - done, self.scorer)
        begin = time.perf_counter()
        with progress, Finisher(self.source, self.stream, self.scorer, self.config, self.report) as finisher:
            while not self.ledger.finished():
                self._pass(progress, finisher)
                if not self.ledger.finished():  # what is left is held by other workers
                    time.sleep(1.0)
        self.report.worked = time.perf_counter() - begin

    def _pass(self, progress: Progress, finisher: Finisher) -> None:
        request = CropRequest(
            (self.config.patch, self.config.patch), self.config.num_crop, self.scorer.observer.normalization,
            dtype=self.scorer.patch_dtype,
        )  # fmt: skip
        scores: stages.ClassScores | None = None
        batches = self.stream.crops(
            self.source,
            self._groups(),
            request,
            partial(_draw, self.config),
            batch_images=self.scorer.images_a_batch(),
        )
        try:
            for batch in self.report.timed("waiting for crops", batches):
                scores = scores or stages.ClassScores(batch.label)
                with self.report.stage("scoring"):
                    if len(batch.positions):
                        t = self.scorer.score(batch.crops, batch.label)
                        scores.add(batch, t, keep=self.scorer.keeps)
                scores.failures += batch.failures
                self._check(batch.failures)
                progress.update(
                    len(batch.positions) + len(batch.failures), f"class {self.source.class_names[batch.label]}"
                )
                self.report.count(batch)
                if batch.last:
                    scores.complete()
                    finisher.add(scores, self.held.pop(batch.label))
                    scores = None
            finisher.drain()
        finally:
            close = getattr(batches, "close", None)
            if close:
                close()

    def _groups(self) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """Claims class after class as the stream asks for them."""
        while (task := self.ledger.claim_next()) is not None:
            label = self.labels[task.id]
            self.held[label] = task
            yield label, draw_positions(self.config, label, self.source.count(label))

    def _check(self, failures: list[Any]) -> None:
        if failures and self.options.strict:
            raise ValueError(f"strict: {failures[0].sample_id}: {failures[0].reason}")


def _draw(config: RDEDConfig, label: int, positions: NDArray[np.int64], sizes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Crop boxes of some pictures; a plain function, so that loader processes can take it along."""
    return draw_rrc_boxes(config.seed, label, positions, sizes, config.num_crop, config.scale)
