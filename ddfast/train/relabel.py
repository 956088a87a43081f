"""Soft labels of a distilled set: teachers look at the views that students will train on, and a store keeps it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ddfast._types import Normalization
from ddfast.data import Source, open_source
from ddfast.nets.checkpoints import fingerprint
from ddfast.nets.classes import map_classes
from ddfast.nets.observers import Observer
from ddfast.runs import Ledger, Progress, ProgressEvent, Task, Worker, identify_worker, open_ledger, refuse_occupied
from ddfast.runs.atomic import remove_folder
from ddfast.runs.device import torch_device
from ddfast.runs.sharing import unless
from ddfast.store import DistilledSet, LabelLayout, LabelStore
from ddfast.store.label_codec import encode_labels, kept_information
from ddfast.store.labels import LABELS_FILE, OUTPUTS
from ddfast.store.loader import shows_digits
from ddfast.train.augment import render
from ddfast.train.fkd import check_fkd, write_fkd
from ddfast.train.replay import Replay
from ddfast.train.small_observer import SmallObserver
from ddfast.train.teachers import FORWARD_BATCH, Teachers, load_teacher
from ddfast.train.views import ViewConfig, Views

TEACHERS = "teachers"
"""Of a run that trains its teachers: their weights, until all labels are there."""
PRESETS: dict[str, dict[str, Any]] = {
    "rded": {"epochs": 300, "batch_size": 100, "k": 10, "tail_temperature": 20.0},
    "smoke": {"epochs": 3, "batch_size": 25, "k": 5, "tail_temperature": 20.0},
}


def view_of(distilled: DistilledSet) -> ViewConfig:
    """RDED's student view of a set (arXiv 2312.03526): strips shuffled, cropped by the mosaic's factor, flip, CutMix.

    With factor 1 shuffle and crop are the identity; sets without a factor in their manifest count as factor 1. Digits
    are not mirrored.
    """
    factor = int((distilled.manifest.get("config") or {}).get("factor") or 1)
    height, width = (int(side) for side in distilled.images.shape[1:3])
    scale = (1 / factor, 1.0) if factor > 1 else None
    flip = not shows_digits(distilled.manifest)
    return ViewConfig((height, width), factor=factor, scale=scale, flip=flip, mix="cutmix")


def relabel(
    distilled: DistilledSet,
    teachers: Sequence[Observer | nn.Module | SmallObserver],
    out: str | os.PathLike[str],
    *,
    view: ViewConfig | None,
    seed: int = 0,
    epochs: int = 1,
    batch_size: int = 100,
    kind: str = "fp16",
    k: int = 10,
    tail_temperature: float = 1.0,
    precision: str = "fp32",
    order: str = "counter",
    device: str | torch.device = "cpu",
    forward_batch: int = FORWARD_BATCH,
    real: Source | None = None,
    resume: bool = False,
    overwrite: bool = False,
    worker: Worker | None = None,
    progress: str = "auto",
    on_progress: Callable[[ProgressEvent], None] | None = None,
) -> LabelStore:
    """Writes the mean logits of ``teachers`` for every view of every epoch.

    An epoch is one task of the folder's ledger: a killed run loses at most the epochs it was at, and any number of
    workers on the same folder share the epochs.  On one kind of machine they give the same bytes.

    Args:
        distilled: the set; images that students get decoded are decoded first.
        teachers: observers in eval mode; their logits are averaged. Those still to be trained are trained once, by one
            of the workers.
        out: folder for the labels.
        view: what a training view is (`view_of` gives RDED's); None for one label an image, of the plain image.
        seed: of views and order.
        epochs: how many epochs students will train; 1 without a view.
        batch_size: of the training: CutMix and mixup partners come from the batch.
        kind: "fp16" for all logits, or "topk": far smaller, and at a high temperature far less of what the labels say.
            How much is left is measured on a batch of each epoch, noted in the ledger's records, and told at the end.
        k: logits kept of each label.
        tail_temperature: the students' temperature, for which the k kept probabilities are exact.
        precision: "fp32" or "bf16" forward.
        order: of the samples, see `Replay`.
        device: where teachers and views are computed.
        forward_batch: pictures in one forward of a teacher.
        real: pictures of the set's classes, of which teachers are shown some: one whose outputs plainly mean the
            classes in another order is refused. None, random weights and teachers trained here: no look.
        resume: go on with the run in the folder.
        overwrite: replace the run in the folder.
        worker: who this is among several started together.
        progress: mode of `ddfast.runs.Progress`.
        on_progress: called after every batch.

    Returns:
        The store, complete.

    Raises:
        ValueError: settings, set and teachers do not fit together, or logits that are not finite (names the epoch).
        ddfast.runs.RunError: the folder holds other labels or other files, or the disk is full.
    """
    if view is None and epochs != 1:
        raise ValueError(f"epochs: got {epochs} without a view, expected 1: the labels of plain images never change")
    distilled = distilled.decoded()
    images = distilled.images.to(device)
    replay = _replay(distilled, view, seed, batch_size, order)
    layout = LabelLayout(
        len(images), len(distilled.class_names), epochs, kind, k if kind == "topk" else 0,
        tail_temperature if kind == "topk" else 1.0,
    )  # fmt: skip
    ready = [each for each in teachers if not isinstance(each, SmallObserver)]

    def group_of(found: Sequence[Observer | nn.Module]) -> Teachers:
        return Teachers(
            found, distilled.class_names, replay.view.size,
            precision=precision, device=device, forward_batch=forward_batch,
        )  # fmt: skip

    # refused before there is a folder, unless they are still to be trained in there
    known = group_of(ready) if ready or not teachers else None
    if known is not None and real is not None:
        known.check_classes(real)
    for each in teachers:
        if isinstance(each, SmallObserver):
            map_classes(distilled.class_names, len(each.source.class_names), each.source.class_names)
    group = known if len(ready) == len(teachers) else None
    made_from = replay.fingerprint(distilled.images, distilled.labels)
    if view is None:
        made_from |= {"view": None, "seed": None, "batch_size": None, "order": None}
    made_from |= {"teachers": [_weights(each) for each in teachers], "precision": precision}
    tasks = [f"epoch-{epoch:05d}" for epoch in range(epochs)]
    settings = {"labels": layout.as_json(), "fingerprint": dict(made_from)}
    with open_ledger(
        out, tasks, settings, worker=worker, resume=resume, overwrite=overwrite, outputs=(*OUTPUTS, TEACHERS)
    ) as ledger:
        done = partial(_complete, ledger, Path(out))
        if not done():
            with unless(done):
                if group is None:
                    group = group_of(_trained(teachers, Path(out), lambda: not done(), worker, str(device), progress))
                made_from |= {"teachers": group.fingerprints}
                store = LabelStore.create(out, **layout.as_json(), fingerprint=made_from)
                with Progress(
                    len(images) * epochs, done=len(ledger.records()) * len(images), unit="views", title="relabel",
                    mode=progress, callback=on_progress,
                ) as shown:  # fmt: skip
                    _Run(images, replay, group, store, shown).all(ledger)
                    if kind == "topk":
                        shown.write(_kept(ledger, layout))
        ledger.finish()
    remove_folder(Path(out) / TEACHERS)
    return LabelStore.open(out)


def _complete(ledger: Ledger, out: Path) -> bool:
    return (out / LABELS_FILE).exists() and ledger.finished()


def _weights(teacher: Observer | nn.Module | SmallObserver) -> Any:
    """What decides a teacher's weights: they themselves, or how they are trained."""
    if isinstance(teacher, SmallObserver):
        return teacher.identity()
    return fingerprint(teacher.module if isinstance(teacher, Observer) else teacher)


def _trained(
    teachers: Sequence[Observer | nn.Module | SmallObserver], out: Path, wanted: Callable[[], bool],
    worker: Worker | None, device: str, mode: str,
) -> list[Observer | nn.Module]:  # fmt: skip
    """The teachers, those that are to be trained by one worker each, unless they are no longer ``wanted``."""
    found: list[Observer | nn.Module] = []
    for number, each in enumerate(teachers):
        if isinstance(each, SmallObserver):
            folder = out / TEACHERS / str(number)
            made = each.shared(folder, worker=worker, device=device, progress=mode, wanted=wanted)
            each = replace(made, class_names=each.source.class_names)
        found.append(each)
    return found


def _kept(ledger: Ledger, layout: LabelLayout) -> str:
    kept = [float(record.record["kept"]) for record in ledger.records().values()]
    return (
        f"top-{layout.k} labels keep {sum(kept) / len(kept):.0%} of what all {layout.classes} logits say at "
        f"temperature {layout.tail_temperature:g} (kind fp16 keeps all)"
    )


def preset(name: str, distilled: DistilledSet) -> dict[str, Any]:
    """Settings of `relabel` by name: "rded" (RDED's views, 300 epochs, T = 20, top-10 if kind "topk") or "smoke".

    Raises:
        ValueError: an unknown name.
    """
    if name not in PRESETS:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(PRESETS)}")
    settings = {**PRESETS[name], "view": view_of(distilled)}
    settings["k"] = min(settings["k"], len(distilled.class_names) - 1)
    return settings


def relabel_folder(
    path: str | os.PathLike[str],
    teachers: Sequence[str],
    out: str | os.PathLike[str],
    *,
    preset_name: str = "rded",
    data: str | None = None,
    per_image: bool = False,
    factor: int | None = None,
    fkd: str | os.PathLike[str] | None = None,
    check_classes: bool = True,
    device: str = "auto",
    shard: str | None = None,
    **settings: Any,
) -> LabelStore:
    """`relabel` of a set on disk with teachers by name.

    Args:
        path: folder of the distilled set.
        teachers: see `ddfast.train.teachers.load_teacher`.
        out: folder for the labels.
        preset_name: see `preset`.
        data: the real set, for a teacher ``train:NAME``; others are shown some of its pictures.
        per_image: one label an image, of the plain image.
        factor: strips along each side that views shuffle, instead of the set's.
        fkd: folder for the labels in FKD's layout too (`write_fkd`), which worker 0 writes; the order of samples is
            then "random_sampler".
        check_classes: refuse teachers that, shown pictures of ``data``, plainly mean its classes in another order.
        device: see `ddfast.runs.device.torch_device`.
        shard: ``"i/n"``, worker i of n that share the folder; None for what the launcher's variables say.
        **settings: of `relabel`; None keeps the preset's.

    Raises:
        ValueError, FileNotFoundError, ddfast.runs.RunError: as `relabel`, and when the set or a teacher cannot be had.
    """
    worker = identify_worker(shard)
    device = torch_device(device, worker)
    resume, overwrite = bool(settings.get("resume")), bool(settings.get("overwrite"))
    refuse_occupied(out, resume=resume, overwrite=overwrite, worker=worker)
    distilled = DistilledSet.load(path).decoded()
    chosen = {
        **preset(preset_name, distilled),
        **{name: value for name, value in settings.items() if value is not None},
    }
    if per_image and factor is not None:
        raise ValueError(f"factor: got {factor} with one label an image, whose plain image has no strips; leave it out")
    if factor is not None:
        chosen["view"] = replace(chosen["view"], factor=factor)
    if per_image:
        chosen |= {"view": None, "epochs": 1}
    finish = _fkd_writer(distilled, chosen, fkd, resume=worker.continues(resume), overwrite=overwrite, worker=worker)
    if worker.continues(resume) and (Path(out) / LABELS_FILE).exists():  # before a teacher is fetched or trained
        replay = _replay(distilled, chosen["view"], int(chosen.get("seed", 0)), int(chosen["batch_size"]), "counter")
        expect = replay.fingerprint(distilled.images, distilled.labels)
        keys = ("set",) if per_image else ("set", "view", "seed", "batch_size")
        LabelStore.open(out, expect={key: expect[key] for key in keys})
    opened = None if data is None else cache(partial(open_source, data))  # once, and only if a teacher needs it
    observers = [load_teacher(name, distilled, opened) for name in teachers]
    looks = check_classes and any(isinstance(each, Observer) and not each.random_weights for each in observers)
    real = opened() if opened is not None and looks else None
    return finish(relabel(distilled, observers, Path(out), real=real, device=device, worker=worker, **chosen))


def _fkd_writer(
    distilled: DistilledSet, chosen: dict[str, Any], fkd: str | os.PathLike[str] | None, *, resume: bool,
    overwrite: bool, worker: Worker,
) -> Callable[[LabelStore], LabelStore]:  # fmt: skip
    """What writes FKD's layout at the end, all that can be refused refused now; ``chosen`` gets its order."""
    if fkd is None:
        return lambda store: store
    chosen.setdefault("order", "random_sampler")
    view = chosen["view"]
    replay = _replay(distilled, view, int(chosen.get("seed", 0)), int(chosen["batch_size"]), chosen["order"])
    expect = replay.fingerprint(distilled.images, distilled.labels)
    check_fkd(fkd, view, order=replay.order, expect=expect, resume=resume, overwrite=overwrite)

    def finish(store: LabelStore) -> LabelStore:
        if worker.index == 0:
            write_fkd(store, fkd, resume=resume, overwrite=overwrite)
        return store

    return finish


def _replay(distilled: DistilledSet, view: ViewConfig | None, seed: int, batch_size: int, order: str) -> Replay:
    height, width = (int(side) for side in distilled.images.shape[1:3])
    return Replay(view or ViewConfig((height, width)), (height, width), len(distilled), seed, batch_size, order)


class _Run:
    """The epochs that this worker labels."""

    def __init__(
        self, images: Tensor, replay: Replay, teachers: Teachers, store: LabelStore, progress: Progress
    ) -> None:
        self.images, self.replay, self.teachers = images, replay, teachers
        self.store, self.progress = store, progress

    def all(self, ledger: Ledger) -> None:
        for task in ledger.claims(on_wait=self.progress.write):
            with task:
                self._epoch(task, int(task.id.rpartition("-")[2]))

    def _epoch(self, task: Task, epoch: int) -> None:
        layout = self.store.layout
        rows = np.zeros(layout.samples, dtype=layout.row_dtype)
        kept = 1.0
        for step in range(self.replay.steps):
            views = self.replay.views(epoch, step)
            logits = self._logits(views)
            try:
                rows[views.index.numpy()] = encode_labels(logits, layout)
                if step == 0:
                    kept = kept_information(logits, layout)
            except ValueError as error:
                raise ValueError(f"epoch {epoch}, batch {step}: {error}") from error
            self.progress.update(len(views.index))
        task.write_bytes(self.store.file(epoch).name, rows.tobytes())
        task.complete({"views": self.replay.count, "kept": round(kept, 4)})

    def _logits(self, views: Views) -> Tensor:
        def pictures(normalization: Normalization) -> Tensor:
            return render(self.images, views, self.replay.view, normalization)

        return self.teachers(pictures)
