"""From task records to the report: rows with mean and spread, scores, the cross-architecture table."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ddfast.evaluation.accounting import account
from ddfast.evaluation.cost import machine_name
from ddfast.evaluation.made import distillation_cost
from ddfast.evaluation.plan import DISTILLED, FULL, RANDOM_IMAGES, Plan, Spec, Subject
from ddfast.evaluation.protocols import full_config, protocol
from ddfast.evaluation.recipes import recipe_name
from ddfast.evaluation.schema import FORMAT, SCHEMA_VERSION
from ddfast.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)
from ddfast.evaluation.storage import fingerprint
from ddfast.evaluation.students import label_of
from ddfast.evaluation.tradeoff import tradeoff
from ddfast.store.manifest import current_versions

Records = Mapping[str, Mapping[str, Any]]


def make_report(
    plan: Plan, records: Records, notes: Sequence[str], folders: Sequence[Path | None] = ()
) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        plan: what was trained.
        records: the record of each task.
        notes: what a reader should know.
        folders: of the sets, which may say what making them cost; None for a set in memory.
    """
    rows = [_row(plan, specs, records) for specs in _grouped(plan.specs())]
    classes = plan.subjects[0].distilled.class_names
    where = [*folders, *[None] * (len(plan.subjects) - len(folders))]
    sets = [_set(plan, subject, folder) for subject, folder in zip(plan.subjects, where, strict=True)]
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "config": plan.config.as_json(),
        "protocol": {"name": plan.config.preset, "about": protocol(plan.config.preset).about},
        "class_names": list(classes),
        "validation": _validation(plan, records),
        "sets": sets,
        "students": [{"name": name, "label": label_of(name, plan.width)} for name in plan.students],
        "results": rows,
        "tradeoff": tradeoff(sets, rows),
        "scores": [_scores(plan, subject, student, rows) for subject in plan.subjects for student in plan.students],
        "cross_architecture": _cross(plan, rows),
        "notes": list(notes),
        "versions": current_versions(),
        "machine": {
            "device": plan.device,
            "threads": plan.threads,
            "processor": platform.machine(),
            "name": "; ".join(sorted({record.get("machine") or "" for record in records.values()} - {""}))
            or machine_name(plan.device),
        },
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean, sample standard deviation (null for a single value) and the values, rounded to 1e-6."""
    spread = round(stdev(values), 6) if len(values) > 1 else None
    return {"mean": round(mean(values), 6), "std": spread, "values": [round(value, 6) for value in values]}


def find_row(
    rows: Sequence[Mapping[str, Any]], subject: str, images: str, labels: str, student: str, *, augmented: bool = True
) -> Mapping[str, Any] | None:
    """The row of these, or None."""
    wanted = (subject, images, labels, augmented, student)
    keys = ("set", "images", "labels", "augmented", "student")
    return next((row for row in rows if tuple(row[key] for key in keys) == wanted), None)


def own_labels(rows: Sequence[Mapping[str, Any]], subject: str) -> str:
    """The labels a set is meant to be used with: soft where they were trained with."""
    return "soft" if any(row["set"] == subject and row["labels"] == "soft" for row in rows) else "hard"


def _grouped(specs: Sequence[Spec]) -> list[list[Spec]]:
    groups: dict[tuple[Any, ...], list[Spec]] = {}
    for spec in specs:
        groups.setdefault(spec.row, []).append(spec)
    return list(groups.values())


def _row(plan: Plan, specs: Sequence[Spec], records: Records) -> dict[str, Any]:
    first = specs[0]
    runs = [records[spec.id] for spec in specs]
    tested = [sum(run["tested"][c] for run in runs) for c in range(len(runs[0]["tested"]))]
    correct = [sum(run["correct"][c] for run in runs) for c in range(len(tested))]
    curves = list(zip(*(run["top1"] for run in runs), strict=True))
    return {
        "set": first.subject,
        "images": first.images,
        "labels": first.labels,
        "augmented": first.augmented,
        "student": first.student,
        "top1": summary([run["top1"][-1] for run in runs]),
        "best_of_test": summary([max(run["top1"]) for run in runs]) if plan.config.best else None,
        "per_class": [round(c / n, 6) if n else None for c, n in zip(correct, tested, strict=True)],
        "curve": {
            "epochs": runs[0]["epochs"],
            "mean": [round(mean(point), 6) for point in curves],
            "low": [round(min(point), 6) for point in curves],
            "high": [round(max(point), 6) for point in curves],
        },
        "loss": [round(mean(point), 6) for point in zip(*(run["losses"] for run in runs), strict=True)],
        "image_count": round(mean(run["images"] for run in runs), 2),
        "bytes": round(mean(run["bytes"] for run in runs), 1),
        "cost": {
            "steps": round(mean(run["steps"] for run in runs)),
            "flops": runs[0]["flops"],
            "seconds": summary([run["seconds"] for run in runs]),
            **({"decoding": _decoding(runs)} if "decoding" in runs[0] else {}),
        },
        **({"label_bytes": round(mean(run["label_bytes"] for run in runs))} if "label_bytes" in runs[0] else {}),
        "recipe": _recipe(plan, first, runs[0]["images"]),
        **_stages(plan, first, runs),
    }


def _decoding(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of trainings on a distribution: the share of the time that sampling and decoding took, and the pictures."""
    share = round(mean(run["decoding"]["share"] for run in runs), 4)
    return {"share": share, "pictures": runs[0]["decoding"]["pictures"]}


def _stages(plan: Plan, spec: Spec, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Stage by stage, where students went through some; the subsets of random pictures may differ in size."""
    staging = plan.staging(spec)
    if staging is None:
        return {}
    parts = [
        {
            "images": round(mean(part["images"] for part in same), 2),
            "epochs": same[0]["epochs"],
            "lr": same[0]["lr"],
            "top1": summary([part["top1"] for part in same]),
        }
        for same in zip(*(run["stages"] for run in runs), strict=True)
    ]
    return {"staged": {"mode": staging.mode, "momentum": "carried" if staging.carried else "anew", "stages": parts}}


def _recipe(plan: Plan, spec: Spec, images: int) -> dict[str, Any]:
    digits = plan.subject(spec.subject).digits
    config: Any = full_config(plan.config, images, 0, digits=digits) if spec.images == FULL else plan.recipe(spec)
    found = {key: value for key, value in vars(config).items() if key != "seed"}
    if spec.labels == "hard":
        found.pop("temperature", None)
    return found


def _validation(plan: Plan, records: Records) -> dict[str, Any]:
    tested = sum(next(iter(records.values()))["tested"]) if records else 0
    there = sum(plan.validation.counts)
    source = plan.validation.source
    return {
        "name": source.name,
        "fingerprint": source.fingerprint(),
        "images": tested,
        "unreadable": there - tested,
        "per_class": plan.validation.per_class,
        "preparation": plan.validation.rule(),
    }


def _set(plan: Plan, subject: Subject, folder: Path | None) -> dict[str, Any]:
    manifest = subject.distilled.manifest
    teacher = subject.teacher
    observer = manifest.get("observer") or {}
    return {
        "key": subject.key,
        "name": subject.name,
        "method": manifest.get("method"),
        "preset": manifest.get("preset"),
        "recipe": recipe_name(plan.config.preset, manifest),
        "source": (manifest.get("source") or {}).get("name"),
        "observer": observer.get("name"),
        "ipc": subject.distilled.ipc,
        "images": len(subject.distilled),
        "resolution": list(subject.distilled.images.shape[1:3]),
        "sha256": fingerprint(subject.distilled),
        "storage": {
            **subject.storage.as_json(),
            **account(subject.distilled, subject.storage, trained=subject.space is not None, labels=subject.labels),
        },
        "distillation": distillation_cost(manifest, folder),
        "teacher": None if teacher is None else {"name": teacher.name, "weights": teacher.weights},
        "normalization": {
            "mean": [round(v, 6) for v in subject.normalization.mean],
            "std": [round(v, 6) for v in subject.normalization.std],
        },
        "train": None if plan.train is None else plan.train.name,
    }


def _scores(plan: Plan, subject: Subject, student: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    own = own_labels(rows, subject.key)

    def values(images: str, labels: str, augmented: bool = True) -> list[float] | None:
        row = find_row(rows, subject.key, images, labels, student, augmented=augmented)
        return None if row is None else list(row["top1"]["values"])

    full = [plan.config.full_accuracy] * plan.config.seeds if plan.config.full_accuracy is not None else None
    full = full or values(FULL, "hard")
    hard, syn, rdm = values(DISTILLED, "hard"), values(DISTILLED, own), values(RANDOM_IMAGES, own)
    syn_plain, rdm_plain = values(DISTILLED, own, False), values(RANDOM_IMAGES, own, False)
    hlr = _each(hard_label_recovery, full, hard)
    ior = _each(improvement_over_random, syn, rdm)
    plain = _each(improvement_over_random, syn_plain, rdm_plain)
    return {
        "set": subject.key,
        "student": student,
        "labels": own,
        "hlr": _optional(hlr),
        "ior": _optional(ior),
        "lrs": _optional(_each(label_robust_score, hlr, ior)),
        "ars": _optional(_each(augmentation_robust_score, ior, plain)),
    }


def _each(score: Any, first: list[float] | None, second: list[float] | None) -> list[float] | None:
    if first is None or second is None:
        return None
    return [score(a, b) for a, b in zip(first, second, strict=True)]


def _optional(values: list[float] | None) -> dict[str, Any] | None:
    return None if values is None else summary(values)


def _cross(plan: Plan, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]] | None:
    """Observer by student, where there is more than one of either."""
    if len(plan.subjects) * len(plan.students) == 1:
        return None
    table = []
    for subject in plan.subjects:
        own = own_labels(rows, subject.key)
        found = [find_row(rows, subject.key, DISTILLED, own, student) for student in plan.students]
        observer = (subject.distilled.manifest.get("observer") or {}).get("name")
        cells = [None if row is None else {k: row["top1"][k] for k in ("mean", "std")} for row in found]
        table.append({"set": subject.key, "observer": observer or subject.name, "labels": own, "top1": cells})
    return table
