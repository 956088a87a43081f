"""The report of a class-incremental evaluation.

Keys of ``report.json``

    format             "ddfast.continual"
    schema_version     1
    config, protocol   the settings; name and description of the recipe
    class_names        list of text; the index is the label
    seen               classes seen after each step
    orders             the labels in the order in which they come, one list an order
    validation         {name, fingerprint, images, per_class, preparation}
    sets               [{key, name, method, source, ipc, images, resolution, sha256, bytes}]
    students           [{name, label}]
    results            one row per set and student: {set, student, top1: [{mean, std, values}] one a step, average:
                       {mean, std, values}, images: [per step, mean over orders], seconds, recipe}; values are those of
                       the students of the first order, then those of the second ...; average is over the steps
    notes              list of text
    versions, machine  mappings
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ddfast.evaluation.incremental.config import class_orders, seen_counts
from ddfast.evaluation.incremental.plan import ContinualPlan, ContinualSpec
from ddfast.evaluation.plan import DISTILLED
from ddfast.evaluation.protocols import protocol
from ddfast.evaluation.results import summary
from ddfast.evaluation.schema import json_bytes, read_checked
from ddfast.evaluation.storage import fingerprint
from ddfast.evaluation.students import label_of
from ddfast.store.manifest import current_versions

FORMAT = "ddfast.continual"
SCHEMA_VERSION = 1
Records = Mapping[str, Mapping[str, Any]]


def make_continual(plan: ContinualPlan, records: Records, notes: Sequence[str]) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        plan: what was trained.
        records: the record of each task.
        notes: what a reader should know.
    """
    source = plan.validation.source
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "config": plan.settings.as_json(),
        "protocol": {"name": plan.config.preset, "about": protocol(plan.config.preset).about},
        "class_names": list(plan.subjects[0].distilled.class_names),
        "seen": list(seen_counts(plan.classes, plan.settings.steps)),
        "orders": [list(order) for order in class_orders(plan.classes, plan.settings.orders)],
        "validation": {
            "name": source.name, "fingerprint": source.fingerprint(), "images": sum(plan.validation.counts),
            "per_class": plan.validation.per_class, "preparation": plan.validation.rule(),
        },
        "sets": [
            {
                "key": subject.key, "name": subject.name, "method": subject.distilled.manifest.get("method"),
                "source": (subject.distilled.manifest.get("source") or {}).get("name"), "ipc": subject.distilled.ipc,
                "images": len(subject.distilled), "resolution": list(subject.distilled.images.shape[1:3]),
                "sha256": fingerprint(subject.distilled), "bytes": subject.storage.total,
            }
            for subject in plan.subjects
        ],
        "students": [{"name": name, "label": label_of(name, plan.width)} for name in plan.students],
        "results": [_row(plan, records, subject.key, name) for subject in plan.subjects for name in plan.students],
        "notes": list(notes),
        "versions": current_versions(),
        "machine": {"device": plan.device, "threads": plan.threads, "processor": platform.machine()},
    }  # fmt: skip


def _row(plan: ContinualPlan, records: Records, subject: str, student: str) -> dict[str, Any]:
    config = plan.settings
    last: ContinualSpec | None = None
    top1, images, seconds = [], [], 0.0
    for step in range(config.steps):
        runs = []
        for order in range(config.orders):
            for seed in range(config.seeds):
                number = order * config.seeds + seed
                last = ContinualSpec(subject, DISTILLED, "hard", True, student, number, order, step)
                runs.append(records[last.id])
        top1.append([run["top1"][-1] for run in runs])
        images.append(round(mean(run["images"] for run in runs), 2))
        seconds += sum(run["seconds"] for run in runs)
    recipe = {} if last is None else {k: v for k, v in vars(plan.recipe(last)).items() if k != "seed"}
    recipe.pop("temperature", None)
    return {
        "set": subject,
        "student": student,
        "top1": [summary(values) for values in top1],
        "average": summary([mean(values) for values in zip(*top1, strict=True)]),
        "images": images,
        "seconds": round(seconds, 2),
        "recipe": recipe,
    }


def read_continual(path: str | Path) -> dict[str, Any]:
    """Reads and checks a report.

    Args:
        path: ``report.json`` or the folder with it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not JSON, or not valid; the message names the file and the key.
    """
    return read_checked(path, validate_continual)


def continual_bytes(report: Mapping[str, Any]) -> bytes:
    """The file's contents; ValueError names the first key that is not valid."""
    validate_continual(report)
    return json_bytes(report)


def validate_continual(report: Any, where: str = "report") -> dict[str, Any]:
    """Checks the keys that readers rely on.

    Raises:
        ValueError: names the first key that is missing or wrong, its value and what was expected.
    """
    if not isinstance(report, Mapping) or report.get("format") != FORMAT:
        got = report.get("format") if isinstance(report, Mapping) else type(report).__name__
        raise ValueError(f"{where}: format: got {got!r}, expected {FORMAT!r}")
    version = report.get("schema_version")
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise ValueError(f"{where}: schema_version: got {version!r}, this version knows {SCHEMA_VERSION}")
    for key, kind in _KEYS.items():
        if not isinstance(report.get(key), kind):
            raise ValueError(f"{where}: {key}: got {report.get(key)!r:.80}, expected a {kind.__name__}")
    classes = len(report["class_names"])
    if not report["seen"] or report["seen"][-1] != classes or report["seen"] != sorted(set(report["seen"])):
        raise ValueError(f"{where}: seen: got {report['seen']!r}, expected growing numbers up to {classes}")
    for number, order in enumerate(report["orders"]):
        if sorted(order) != list(range(classes)):
            raise ValueError(f"{where}: orders[{number}]: got {order!r:.80}, expected each label once")
    for number, row in enumerate(report["results"]):
        _check_row(f"{where}: results[{number}]", row, report)
    return dict(report)


def _check_row(where: str, row: Any, report: Mapping[str, Any]) -> None:
    if not isinstance(row, Mapping) or row.get("set") not in {entry["key"] for entry in report["sets"]}:
        raise ValueError(f"{where}.set: got {row!r:.80}, expected the key of one of the sets")
    if row.get("student") not in {entry["name"] for entry in report["students"]}:
        raise ValueError(f"{where}.student: got {row.get('student')!r}, expected one of the students")
    found = row.get("top1")
    if not isinstance(found, list) or len(found) != len(report["seen"]):
        raise ValueError(f"{where}.top1: got {found!r:.80}, expected one entry for each step, {len(report['seen'])}")
    for entry in (*found, row.get("average")):
        values = entry.get("values") if isinstance(entry, Mapping) else None
        if not isinstance(values, list) or not all(isinstance(v, (int, float)) and 0 <= v <= 1 for v in values):
            raise ValueError(f"{where}: got {entry!r:.80}, expected mean, std and values, fractions in [0, 1]")


_KEYS: dict[str, type] = {
    "config": dict, "protocol": dict, "class_names": list, "seen": list, "orders": list, "validation": dict,
    "sets": list, "students": list, "results": list, "notes": list, "versions": dict, "machine": dict,
}  # fmt: skip


def row_name(report: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Set and student for people, as far as there are several."""
    parts = []
    if len(report["sets"]) > 1 or len(report["students"]) == 1:
        parts.append(next(str(entry["name"]) for entry in report["sets"] if entry["key"] == row["set"]))
    if len(report["students"]) > 1:
        parts.append(next(str(entry["label"]) for entry in report["students"] if entry["name"] == row["student"]))
    return ", ".join(parts)


def markdown(report: Mapping[str, Any]) -> str:
    """The table for a README: top-1 in percent after each step."""
    config = report["config"]
    lines = [
        "| memory | " + " | ".join(f"{count} classes" for count in report["seen"]) + " | average |",
        "| :--- |" + " ---: |" * (len(report["seen"]) + 1),
    ]
    for row in report["results"]:
        cells = " | ".join(cell(entry) for entry in (*row["top1"], row["average"]))
        lines.append(f"| {row_name(report, row).replace('|', '/')} | {cells} |")
    return "\n".join([*lines, "", caption(report, config), ""])


def caption(report: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """What the table shows."""
    count = config["orders"] * config["seeds"]
    return (
        f"Top-1 % on the test pictures ({report['validation']['name']}) of the classes seen so far, of new students "
        f"trained with hard labels on the images of these classes; mean ± standard deviation of {count} "
        f"({config['orders']} class orders x {config['seeds']} students). Recipe: {report['protocol']['name']}."
    )


def cell(entry: Mapping[str, Any]) -> str:
    """``45.3 ± 0.8``"""
    spread = "" if entry["std"] is None else f" ± {100 * entry['std']:.1f}"
    return f"{100 * entry['mean']:.1f}{spread}"
