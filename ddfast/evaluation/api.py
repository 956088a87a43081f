"""One call that judges distilled sets: train students, test them, compare with controls, write the report."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.data import Source
from ddfast.evaluation.accounting import account_text
from ddfast.evaluation.drawn import check_distribution, soft_note
from ddfast.evaluation.inputs import (
    Data,
    Sets,
    fitted_to_machine,
    load_sets,
    read_settings,
    real_set,
    test_pictures,
    training_space,
    whitening_note,
)
from ddfast.evaluation.made import set_folders, set_pictures
from ddfast.evaluation.page import render
from ddfast.evaluation.plan import Plan, Subject, subject_keys
from ddfast.evaluation.protocols import EvaluationConfig, protocol
from ddfast.evaluation.recipes import default_student, is_drawn, named_recipe
from ddfast.evaluation.results import find_row, make_report, own_labels
from ddfast.evaluation.runner import run_plan
from ddfast.evaluation.schema import report_bytes
from ddfast.evaluation.staging import staging_of
from ddfast.evaluation.storage import SOFT, is_distribution, measure
from ddfast.evaluation.students import build_student, parse_students
from ddfast.evaluation.teacher import Teacher, drop_meeting, find_teacher, made_again
from ddfast.evaluation.usage import used
from ddfast.evaluation.validation import CACHE_FILE, drop_cache, write_cache
from ddfast.nets.classes import match_classes
from ddfast.runs import Worker, atomic_write_bytes, refuse_occupied
from ddfast.runs.device import torch_device
from ddfast.store import DistilledSet, LabelStore, set_fingerprint
from ddfast.train.data_parallel import Group, joined

if TYPE_CHECKING:
    from torch import nn

    from ddfast.nets import Observer


@dataclass(frozen=True)
class Evaluation:
    """What came out: ``report`` as `ddfast.evaluation.schema` describes it, ``html`` the page."""

    report: dict[str, Any]
    html: str

    def top1(
        self, images: str = "distilled", labels: str | None = None, student: str | None = None, set: str | None = None
    ) -> dict[str, Any]:
        """Accuracy after the last epoch: {mean, std, values}, fractions.

        Args:
            images: "distilled", "random-images", "random-bytes" or "full".
            labels: "hard" or "soft"; None for soft where there are any.
            student, set: None for the first.

        Raises:
            KeyError: nothing of the kind was trained.
        """
        key = set or self.report["sets"][0]["key"]
        kind = labels or own_labels(self.report["results"], key)
        kind = "hard" if images == "full" else kind
        row = find_row(self.report["results"], key, images, kind, student or self.report["students"][0]["name"])
        if row is None:
            raise KeyError(f"{key}: no students of {images} pictures with {kind} labels were trained")
        return dict(row["top1"])

    def text(self) -> str:
        """The headline table for a terminal: accuracies, scores, and what each set takes."""
        lines = []
        names = {entry["key"]: entry["name"] for entry in self.report["sets"]}
        for row in (row for row in self.report["results"] if row["augmented"]):
            spread = "" if row["top1"]["std"] is None else f" ± {100 * row['top1']['std']:.2f}"
            what = f"{names[row['set']]}: {row['images']}, {row['labels']} labels, {row['student']}"
            size = f"{row['image_count']:.0f} images, {row['bytes'] / 1000:.1f} kB"
            lines.append(f"  {what:60s} {100 * row['top1']['mean']:6.2f}{spread} %   ({size})")
        for score in self.report["scores"]:
            found = [
                f"{k.upper()} {score[k]['mean']:.3f}" for k in ("hlr", "ior", "lrs", "ars") if score[k] is not None
            ]
            if found:
                scores = f"{', '.join(found)} (DD-Ranking's formula, our protocol; not comparable with its leaderboard)"
                lines.append(f"  {names[score['set']]}, {score['student']}: {scores}")
        lines += [f"  {entry['name']}: {account_text(entry['storage'])}" for entry in self.report["sets"]]
        return "\n".join(lines)


def evaluate(
    distilled: Sets,
    val: Data | None = None,
    *,
    train: Data | None = None,
    students: str | Sequence[str] | None = None,
    preset: str | None = None,
    teacher: str | nn.Module | Observer | None = "auto",
    teacher_weights: str | None = None,
    labels: LabelStore | str | Path | None = None,
    check_classes: bool = True,
    out: str | Path | None = None,
    device: str = "auto",
    processes: int | None = None,
    worker: Worker | None = None,
    data_parallel: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Evaluation:
    """Trains students on distilled sets and on controls, and reports what they learned and what it cost.

    Every student of every kind is a task of its own in a ledger: kill the run at any moment and go on with ``resume``.

    Args:
        distilled: a `DistilledSet`, the folder of one, or several of the same classes and resolution.
        val: test pictures, matched by class name (see `ddfast.data.open_source`); None for sets of built-in sources.
        train: the real set, for the controls, storage and a repeated observer; None for sets of built-in sources.
        students: names such as ``conv3``, ``conv3_instance``, ``resnet18``, ``resnet18_modified``, or a torchvision
            name; None for ``conv3``, for matching methods' recipes with instance norm (see
            `ddfast.evaluation.recipes.default_student`).
        preset: the recipe, one of `ddfast.evaluation.protocols.PROTOCOLS`; None for the one that the sets' manifests
            name (dc, dsa, idc or d3), ``rded`` where they name none; ``smoke`` takes the named one, shortened.
        teacher: who makes soft labels: "auto" (``teacher.safetensors`` in the folder of a D3 set; else the set's
            observer where it was trained on the source itself), "none", a network's name or file, a module or an
            `Observer`.
        teacher_weights: file of a named teacher's weights.
        labels: stored soft labels of the set (from ``ddfast relabel``); they count as storage. The set's students are
            trained with them, those of the controls with the teacher's.
        check_classes: show a teacher that is named or given some real pictures first, and refuse one whose outputs
            plainly mean the classes in another order.
        out: folder for ``report.json``, ``report.html`` and the run's state; None keeps nothing.
        device: cpu, cuda, cuda:N or auto.
        processes: how many students are trained side by side; None for one a core on CPU, one on a GPU. The results do
            not depend on it.
        worker: who this is among workers started together (see `ddfast.runs.identify_worker`).
        data_parallel: the ranks of this torchrun launch train every student together, each on a part of every batch
            and with its own forward of the teacher (`ddfast.train.data_parallel`): for large students and teachers.
            Without it each rank trains other students, which is faster where there are enough of them.
        resume, overwrite: go on with, or replace, the run in ``out``.
        quiet: no progress.
        **settings: fields of `EvaluationConfig`: ``seeds``, ``controls``, ``epochs``, ``best`` ...

    Returns:
        The report and the page.

    Raises:
        TypeError: unknown setting.
        ValueError: a setting, a folder or the classes do not fit; the message says which and what to do.
        NonFiniteLossError: a training diverged; the message has task, step and learning rate.
        ddfast.runs.RunError: ``out`` holds something else, or the disk is full.
    """
    config = read_settings(EvaluationConfig, "evaluate", preset or "rded", settings)
    options = _Options(
        train, teacher, teacher_weights, labels, device, processes, worker, resume, overwrite, quiet,
        named=preset is None, check_classes=check_classes,
    )  # fmt: skip
    if data_parallel:
        return _evaluate_together(distilled, val, students, config, out, options)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ddfast-") as folder:
            return _evaluate(distilled, val, students, config, Path(folder), options)
    refuse_occupied(out, resume=resume, overwrite=overwrite, worker=worker)
    return _evaluate(distilled, val, students, config, Path(out), options)


@dataclass(frozen=True)
class _Options:
    train: Data | None
    teacher: Any
    teacher_weights: str | None
    labels: LabelStore | str | Path | None
    device: str
    processes: int | None
    worker: Worker | None
    resume: bool
    overwrite: bool
    quiet: bool
    named: bool = False  # the recipe is the one that manifests name
    check_classes: bool = True
    group: Group | None = None


def _evaluate_together(
    distilled: Sets, val: Data | None, students: Any, config: EvaluationConfig, out: Any, options: _Options
) -> Evaluation:
    """As one of the ranks that train every student together."""
    if out is None or (options.processes or 1) > 1:
        raise ValueError(
            f"data_parallel: got out={out!r} and processes={options.processes!r}, expected a folder that all ranks "
            "see, and one process a rank"
        )
    with joined(options.device) as group:
        worker = group.worker(options.worker)
        if group.leads:
            refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
        quiet = options.quiet or not group.leads
        options = replace(options, worker=worker, group=group, device=group.device, processes=1, quiet=quiet)
        return _evaluate(distilled, val, students, config, Path(out), options)


def _evaluate(
    distilled: Sets, val: Data | None, students: Any, config: EvaluationConfig, out: Path, options: _Options
) -> Evaluation:
    loaded = load_sets(distilled)
    if options.named:
        config = replace(config, preset=named_recipe([one.manifest for _, one in loaded]))
    if config.fresh is not None and not any(is_drawn(config.preset, one.manifest) for _, one in loaded):
        raise ValueError(
            f"fresh: got {config.fresh!r}, but no set here is a distribution that preset {config.preset} draws from; "
            "leave it out"
        )
    if config.staged is not None and all(one.stages is None for _, one in loaded):
        raise ValueError(f"staged: got {config.staged!r}, but no set here has stages; leave it out")
    notes: list[str] = []
    validation = test_pictures(loaded[0][1], val, config)
    train = real_set(loaded[0][1], options.train, notes)
    device = torch_device(options.device, options.worker)
    names = parse_students(students or default_student(config.preset, [one.manifest for _, one in loaded]))
    first = loaded[0][1]
    for name in names:
        width = config.width or protocol(config.preset).width
        build_student(name, len(first.class_names), int(first.images.shape[1]), seed=0, width=width)
    folders = set_folders(distilled)
    real = (validation.source if train is None else train) if options.check_classes else None
    subjects = _subjects(loaded, folders, train, options, config, notes, real, device)
    plan = Plan(config, subjects, names, validation, train, device, 1, 0)
    plan, processes = fitted_to_machine(plan, out, options.processes, options.worker)
    if options.group is not None:
        plan = replace(plan, threads=max(1, (os.cpu_count() or 1) // options.group.local_count))
    ready: list[Plan] = []

    def prepare(work_left: bool) -> Plan:
        ready.append(replace(plan, subjects=tuple(_taught(each, out, device, options, notes) for each in subjects)))
        if work_left and plan.validation.cache is not None and not (out / CACHE_FILE).exists():
            write_cache(plan.validation, out, os.cpu_count() or 1)
        return ready[0]

    records = run_plan(
        plan, out, worker=options.worker, resume=options.resume, overwrite=options.overwrite, processes=processes,
        quiet=options.quiet, prepare=prepare, group=options.group,
    )  # fmt: skip
    plan = ready[0]
    report = json.loads(report_bytes(make_report(plan, records, notes, folders)))  # as a reader of the file sees it
    page = render(report, [subject.distilled for subject in subjects], [set_pictures(folder) for folder in folders])
    if options.group is not None and not options.group.leads:
        return Evaluation(report, page)
    atomic_write_bytes(out / "report.json", report_bytes(report))
    atomic_write_bytes(out / "report.html", page.encode(errors="backslashreplace"))
    drop_cache(out)
    for subject in subjects:
        drop_meeting(_kept_teacher(out, subject))
    return Evaluation(report, page)


def _kept_teacher(out: Path, subject: Subject) -> Path:
    return out / f"teacher-{subject.key}.safetensors"


def _taught(subject: Subject, out: Path, device: str, options: _Options, notes: list[str]) -> Subject:
    """The subject with its teacher trained, by one of the workers."""
    if subject.teacher is None:
        return subject
    teacher, note = made_again(
        subject.teacher, subject.distilled, _kept_teacher(out, subject),
        worker=options.worker, device=device, quiet=options.quiet,
    )  # fmt: skip
    notes += [f"{subject.name}: {note}."] if note else []
    return replace(subject, teacher=teacher)


def _subjects(
    loaded: list[tuple[str, DistilledSet]],
    folders: list[Path | None],
    train: Source | None,
    options: _Options,
    config: EvaluationConfig,
    notes: list[str],
    real: Source | None,
    device: str,
) -> tuple[Subject, ...]:
    found = []
    store = options.labels if options.labels is None or isinstance(options.labels, LabelStore) else None
    if options.labels is not None:
        if len(loaded) > 1:
            raise ValueError(f"labels: got them with {len(loaded)} sets, expected one set")
        store = store or LabelStore.open(Path(str(options.labels)))
        _, one = loaded[0]
        one = one.decoded()
        store.check({"set": set_fingerprint(one.images, one.labels)})
    for key, (name, distilled), folder in zip(subject_keys(len(loaded)), loaded, folders, strict=True):
        targets: tuple[int, ...] = ()
        if train is not None:
            targets = match_classes(distilled.class_names, train.class_names, f"train {train.name}")
        teacher: Teacher | None = None
        drawn = is_drawn(config.preset, distilled.manifest)
        if drawn:
            check_distribution(name, distilled)
        if config.soft:
            teacher, why = find_teacher(
                options.teacher, options.teacher_weights, distilled, train, folder=folder, real=real, device=device
            )
            what = "random pictures have no soft labels" if drawn and SOFT in distilled.extras else "no soft labels"
            if why:
                notes.append(f"{name}: {why}." if teacher else f"{name}: {what}, since {why}.")
        if drawn and store is not None:
            raise ValueError("labels: got a store for a distribution, whose pictures are drawn anew; leave it out")
        notes += [] if drawn else _storage_notes(name, teacher, store)
        if store is not None and config.staged is None and staging_of(distilled, None) is not None:
            notes.append(f"{name}: students train on all stages at once, since stored labels are of all images.")
        size = store.layout.total_bytes if store is not None else 0
        space = training_space(distilled, train, config)
        if space is not None and space.zca is not None:
            notes.append(whitening_note(name, space.zca))
        storage = measure(distilled, train, targets, label_bytes=size)
        storage = used(storage, distilled, trained=space is not None)
        if drawn and config.soft:
            notes += soft_note(name, distilled, teacher, storage)
        elif not drawn and is_distribution(distilled):
            notes.append(f"{name}: students train on the decoded means as pictures; preset d3 draws samples.")
        found.append(Subject(key, name, distilled, storage, teacher, targets, store, space))
    return tuple(found)


def _storage_notes(name: str, teacher: Teacher | None, store: LabelStore | None) -> list[str]:
    """What the bytes leave out, or hold besides images."""
    if store is not None:
        read = f"{name}: soft labels were read from a store of {store.layout.total_bytes:,} bytes, counted as storage."
        if store.per_image:
            return [read]
        return [
            read,
            f"{name}: its students and those of its controls train at most {store.layout.epochs} epochs, in batches of "
            f"{store.fingerprint['batch_size']}, as these labels were made for.",
        ]
    if teacher is None:
        return []
    size = sum(v.numel() * v.element_size() for v in teacher.module.state_dict().values())
    return [
        f"{name}: soft labels are made by the teacher while students train; its {size / 1000:,.0f} kB of weights are "
        "not counted as storage."
    ]
