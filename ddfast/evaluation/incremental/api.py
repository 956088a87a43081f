"""One call that judges distilled sets as memories: classes come in steps, students are trained and tested anew."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddfast.evaluation.drawn import as_pictures
from ddfast.evaluation.incremental.config import ContinualConfig, seen_counts
from ddfast.evaluation.incremental.page import render
from ddfast.evaluation.incremental.plan import ContinualPlan
from ddfast.evaluation.incremental.report import continual_bytes, make_continual, markdown
from ddfast.evaluation.inputs import (
    Data,
    Sets,
    fitted_to_machine,
    load_sets,
    opened,
    read_settings,
    test_pictures,
    training_space,
)
from ddfast.evaluation.plan import Plan, Subject, subject_keys
from ddfast.evaluation.protocols import protocol
from ddfast.evaluation.recipes import TRAINED, recipe_name
from ddfast.evaluation.runner import run_plan
from ddfast.evaluation.storage import is_distribution, measure
from ddfast.evaluation.students import build_student, parse_students
from ddfast.evaluation.usage import used
from ddfast.evaluation.validation import CACHE_FILE, drop_cache, write_cache
from ddfast.runs import Worker, atomic_write_bytes, refuse_occupied
from ddfast.runs.device import torch_device
from ddfast.store import DistilledSet


@dataclass(frozen=True)
class Continual:
    """What came out: ``report`` as `ddfast.evaluation.incremental.report` describes it, ``html`` the page."""

    report: dict[str, Any]
    html: str

    def text(self) -> str:
        """The table in Markdown."""
        return markdown(self.report)


@dataclass(frozen=True)
class _How:
    train: Data | None
    device: str
    processes: int | None
    worker: Worker | None
    resume: bool
    overwrite: bool
    quiet: bool


def continual(
    distilled: Sets,
    val: Data | None = None,
    *,
    train: Data | None = None,
    students: str | tuple[str, ...] = ("conv3_instance",),
    preset: str = "dsa",
    out: str | Path | None = None,
    device: str = "auto",
    processes: int | None = None,
    worker: Worker | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Continual:
    """Class-incremental learning on distilled sets; see `ContinualConfig` for the protocol.

    Every student is a task of its own in a ledger: kill the run at any moment and go on with ``resume``.

    Args:
        distilled: a `DistilledSet`, the folder of one, or several of the same classes and resolution.
        val: test pictures, matched by class name; None for sets of built-in sources.
        train: the real set, for sets of whitened images that do not hold their whitening; None for built-in sources.
        students: names, as in `ddfast.evaluate`.
        preset: the recipe, ``dsa`` (the papers'), ``hard_label``, ``rded``, ``fkd`` or ``smoke``.
        out: folder for ``report.json``, ``report.html``, ``table.md`` and the run's state; None keeps nothing.
        device, processes, worker, resume, overwrite, quiet: as in `ddfast.evaluate`.
        **settings: fields of `ContinualConfig`: ``steps``, ``orders``, ``seeds``, ``epochs`` ...

    Raises:
        TypeError: unknown setting.
        ValueError: a setting, a folder or the classes do not fit; the message says which and what to do.
        NonFiniteLossError: a training diverged; the message has task, step and learning rate.
        ddfast.runs.RunError: ``out`` holds something else, or the disk is full.
    """
    config = read_settings(ContinualConfig, "continual", preset, settings)
    how = _How(train, device, processes, worker, resume, overwrite, quiet)
    if out is None:
        with tempfile.TemporaryDirectory(prefix="ddfast-") as folder:
            return _run(distilled, val, students, config, Path(folder), how)
    refuse_occupied(out, resume=resume, overwrite=overwrite, worker=worker)
    return _run(distilled, val, students, config, Path(out), how)


def _run(distilled: Sets, val: Data | None, students: Any, config: ContinualConfig, out: Path, how: _How) -> Continual:
    loaded = load_sets(distilled)
    first = loaded[0][1]
    seen_counts(len(first.class_names), config.steps)
    settings = config.evaluation()
    validation = test_pictures(first, val, settings)
    device = torch_device(how.device, how.worker)
    names = parse_students(students)
    for name in names:
        width = config.width or protocol(config.preset).width
        build_student(name, len(first.class_names), int(first.images.shape[1]), seed=0, width=width)
    notes: list[str] = []
    subjects = tuple(
        _subject(key, name, one, config, how.train, notes)
        for key, (name, one) in zip(subject_keys(len(loaded)), loaded, strict=True)
    )
    plan = ContinualPlan(settings, subjects, names, validation, None, device, 1, 0, config)
    plan, processes = fitted_to_machine(plan, out, how.processes, how.worker)

    def prepare(work_left: bool) -> Plan:
        if work_left and plan.validation.cache is not None and not (out / CACHE_FILE).exists():
            write_cache(plan.validation, out, os.cpu_count() or 1)
        return plan

    records = run_plan(
        plan, out, worker=how.worker, resume=how.resume, overwrite=how.overwrite, processes=processes, quiet=how.quiet,
        prepare=prepare,
    )  # fmt: skip
    report = json.loads(continual_bytes(make_continual(plan, records, notes)))  # as a reader of the file sees it
    page = render(report, [subject.distilled for subject in subjects])
    atomic_write_bytes(out / "report.json", continual_bytes(report))
    atomic_write_bytes(out / "report.html", page.encode(errors="backslashreplace"))
    atomic_write_bytes(out / "table.md", markdown(report).encode(errors="backslashreplace"))
    drop_cache(out)
    return Continual(report, page)


def _subject(
    key: str, name: str, distilled: DistilledSet, config: ContinualConfig, train: Data | None, notes: list[str]
) -> Subject:
    if is_distribution(distilled):
        notes.append(f"{name}: students train on the decoded means as pictures.")
        distilled = as_pictures(distilled)
    kind = distilled.manifest.get("space")
    known = (distilled.manifest.get("source") or {}).get("name")
    source = None
    if kind == "zca" and recipe_name(config.preset, distilled.manifest) in TRAINED:
        spec = train if train is not None else "mnist5k" if known == "mnist5k" else None
        source = None if spec is None or distilled.whitening is not None else opened("train", spec)
        notes.append(f"{name}: the whitening (ZCA) was fitted to the pictures of all classes, those to come as well.")
    space = training_space(distilled, source, config.evaluation())
    if kind is not None and space is None and "trained_images" in distilled.extras:
        notes.append(
            f"{name}: students train on visible pixels; presets dsa and dc take the images as they were distilled."
        )
    if (distilled.manifest.get("method") or "") not in ("coreset", "dm", ""):
        notes.append(f"{name}: the images were distilled with all classes at hand, not step by step.")
    storage = used(measure(distilled, None), distilled, trained=space is not None)
    return Subject(key, name, distilled, storage, None, (), None, space)
