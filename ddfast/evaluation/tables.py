"""The tables of the report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ddfast.evaluation.charts import size_text
from ddfast.evaluation.figures import KINDS
from ddfast.evaluation.results import find_row, own_labels

Report = Mapping[str, Any]


def percent(value: Mapping[str, Any] | None, *, small: bool = True) -> str:
    """``72.3 ± 0.8 %`` as HTML; a dash for nothing."""
    if value is None:
        return "–"
    spread = "" if value["std"] is None else f" ± {100 * value['std']:.1f}"
    return f"{100 * value['mean']:.1f}<small>{spread} %</small>" if small else f"{100 * value['mean']:.1f}{spread}"


def accuracy(report: Report) -> str:
    """The headline table: pictures by student and labels."""
    kinds = [k for k in ("hard", "soft") if any(row["labels"] == k for row in report["results"])]
    students = report["students"]
    columns = [(student["name"], labels) for student in students for labels in kinds]
    groups = "".join(
        f"<th class='group' colspan='{len(kinds)}'>{escape(student['label'])}</th>" for student in students
    )
    names = "".join(f"<th>{labels} labels</th>" for _, labels in columns)
    body = [
        _accuracy_row(report, entry, kind, columns)
        for entry in report["sets"]
        for kind in KINDS
        if any(row["set"] == entry["key"] and row["images"] == kind for row in report["results"])
    ]
    best = _best(report)
    return (
        "<div class='card scroll'><table><thead>"
        f"<tr><th class='group' colspan='3'></th>{groups}</tr>"
        f"<tr><th>trained on</th><th>images</th><th>bytes</th>{names}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div><p class='small' style='margin-top:8px'>"
        f"Top-1 in % after the last epoch, mean ± standard deviation over {report['config']['seeds']} students. Random "
        "subsets are drawn anew for each student and stored in the distilled set's file format; labels "
        f"and recipe are the same.{best}</p>"
    )


def stages(report: Report) -> str:
    """Accuracy after each stage, of students that went through some."""
    rows = [row for row in report["results"] if row.get("staged") and row["augmented"]]
    if not rows:
        return ""
    names = {entry["key"]: entry["name"] for entry in report["sets"]}
    labels = {student["name"]: student["label"] for student in report["students"]}
    count = max(len(row["staged"]["stages"]) for row in rows)
    body = []
    for row in rows:
        parts = row["staged"]["stages"]
        what = [names[row["set"]]] * (len(names) > 1) + [KINDS[row["images"]][0], f"{row['labels']} labels"]
        cells = "".join(
            f"<td>{percent(part['top1'], small=False)}<br>"
            f"<em>{part['images']:,.0f} images<br>lr {part['lr']:.3g}</em></td>"
            for part in parts
        )
        cells += "<td>–</td>" * (count - len(parts))
        body.append(f"<tr><td>{escape(labels[row['student']])}<br><em>{escape(', '.join(what))}</em></td>{cells}</tr>")
    head = "<th>student</th>" + "".join(f"<th>stage {stage + 1}</th>" for stage in range(count))
    staged = rows[0]["staged"]
    epochs = staged["stages"][0]["epochs"]
    after = "all before" if staged["mode"] == "progressive" else "no other"
    return (
        table(head, body) + "<p class='small' style='margin-top:8px'>Top-1 in % at the end of each stage. One student "
        f"goes through all of them: a stage trains on its own images and {after} for {epochs:,} epochs, with the "
        f"schedule from its start and the momentum {'carried over' if staged['momentum'] == 'carried' else 'anew'}; "
        "the controls' pictures are split into the same stages.</p>"
    )


def cross_architecture(report: Report) -> str:
    """Observer by student, shaded by accuracy."""
    rows = report["cross_architecture"]
    if not rows:
        return ""
    values = [cell["mean"] for row in rows for cell in row["top1"] if cell is not None]
    low, high = min(values), max(values)
    head = "".join(f"<th>{escape(student['label'])}</th>" for student in report["students"])
    names = {entry["key"]: entry["name"] for entry in report["sets"]}
    body = []
    for row in rows:
        cells = "".join(_shaded(cell, low, high) for cell in row["top1"])
        which = f"{escape(names[row['set']])}, {row['labels']} labels"
        body.append(f"<tr><td>{escape(row['observer'])} <em>{which}</em></td>{cells}</tr>")
    return table(f"<th>observer, down; student, across</th>{head}", body)


def scores(report: Report) -> str:
    """LRS and ARS with their parts; a line on what they are."""
    if all(score["ior"] is None for score in report["scores"]):
        return ""
    names = {entry["key"]: entry["name"] for entry in report["sets"]}
    labels = {student["name"]: student["label"] for student in report["students"]}
    body = [
        f"<tr><td>{escape(labels[s['student']])} <em>{escape(names[s['set']])}, {s['labels']} labels</em></td>"
        + "".join(f"<td>{_plain(s[key], signed=key in ('hlr', 'ior'))}</td>" for key in ("hlr", "ior", "lrs", "ars"))
        + "</tr>"
        for s in report["scores"]
    ]
    head = "<th>student</th><th>HLR ↓</th><th>IOR ↑</th><th>LRS ↑</th><th>ARS ↑</th>"
    return (
        table(head, body) + "<p class='small' style='margin-top:8px'>DD-Ranking's formula, in fractions, "
        "with accuracies of our protocol: not comparable with its leaderboard. HLR is what hard labels "
        "lose against all real pictures, IOR the gain over as many random ones; LRS = (e<sup>a</sup> − e<sup>−1</sup>) "
        "/ (e − e<sup>−1</sup>) with a = ½ IOR − ½ HLR; ARS the same for the mean gain with and without augmentation. "
        "0.269 means neither gain nor loss.</p>"
    )


def recipe(report: Report) -> str:
    """Recipe, sets, machine and versions as lists."""
    one = report["sets"][0]
    own = own_labels(report["results"], one["key"])
    first = next(row for row in report["results"] if row["images"] == "distilled" and row["labels"] == own)
    teacher = one["teacher"]
    items = {
        "recipe": f"{report['protocol']['name']}: {report['protocol']['about']}",
        "student training": recipe_text(first["recipe"]) + _staged_text(first),
        "test pictures": (
            f"{report['validation']['name']}, {report['validation']['images']:,} pictures, "
            f"{report['validation']['preparation']}; {report['validation']['unreadable']} unreadable"
        ),
        "real set": one["train"] or "not given: no controls",
        "teacher": "none" if teacher is None else f"{teacher['name']}, {teacher['weights']}",
        "set, SHA-256": ", ".join(entry["sha256"][:16] for entry in report["sets"]),
        "machine": f"{report['machine']['device']}, threads a student: {report['machine']['threads']}, "
        f"{report['machine']['processor']}",
        "versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    }
    inner = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in items.items())
    return f"<div class='card'><dl>{inner}</dl></div>"


def _accuracy_row(report: Report, entry: Report, kind: str, columns: Sequence[tuple[str, str]]) -> str:
    rows = report["results"]
    found = [find_row(rows, entry["key"], kind, labels, student) for student, labels in columns]
    present = next(row for row in found if row is not None)
    name = KINDS[kind][0] if len(report["sets"]) == 1 else f"{entry['name']}: {KINDS[kind][0]}"
    cells = "".join(
        f"<td>{'–' if row is None else percent(row['top1'], small=False)}{_gain(report, entry, row)}</td>"
        for row in found
    )
    count = f"{present['image_count']:,.0f}"
    own = " class='own'" if kind == "distilled" else ""
    return f"<tr{own}><td>{escape(name)}</td><td>{count}</td><td>{size_text(present['bytes'])}</td>{cells}</tr>"


def _gain(report: Report, entry: Report, row: Report | None) -> str:
    """Distilled against as many random pictures, in points."""
    if row is None or row["images"] != "distilled":
        return ""
    other = find_row(report["results"], entry["key"], "random-images", row["labels"], row["student"])
    if other is None:
        return ""
    points = 100 * (row["top1"]["mean"] - other["top1"]["mean"])
    return f" <em class='{'up' if points >= 0 else 'down'}'>{points:+.1f}</em>"


def _best(report: Report) -> str:
    """The best of the tests, only where it was asked for, and named for what it is."""
    found = [
        row for row in report["results"] if row["best_of_test"] and row["images"] == "distilled" and row["augmented"]
    ]
    if not found:
        return ""
    texts = [f"{row['student']}, {row['labels']} labels: {percent(row['best_of_test'], small=False)}" for row in found]
    return f" Best of the tests along the way (chosen on test data, not comparable): {escape('; '.join(texts))}."


def table(head: str, body: Sequence[str]) -> str:
    """A card with the cells ``head`` and the rows ``body``, both HTML."""
    rows = "".join(body)
    return f"<div class='card scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _shaded(cell: Mapping[str, Any] | None, low: float, high: float) -> str:
    if cell is None:
        return "<td>–</td>"
    share = 0.06 + 0.34 * (cell["mean"] - low) / ((high - low) or 1.0)
    return f"<td style='background:rgba(var(--heat),{share:.2f})'>{percent(cell, small=False)}</td>"


def _plain(value: Mapping[str, Any] | None, *, signed: bool) -> str:
    if value is None:
        return "–"
    spread = "" if value["std"] is None else f" <em>± {value['std']:.3f}</em>"
    return f"{value['mean']:+.3f}{spread}" if signed else f"{value['mean']:.3f}{spread}"


def _staged_text(row: Mapping[str, Any]) -> str:
    """Behind the recipe of a stage."""
    staged = row.get("staged")
    return "" if not staged else f"; in each of {len(staged['stages'])} stages, {staged['mode']}"


def recipe_text(values: Mapping[str, Any]) -> str:
    """A recipe's settings in words."""
    order = ("epochs", "batch_size", "optimizer", "lr", "weight_decay", "schedule", "flip", "shift", "factor",
             "cutmix_alpha", "temperature", "bn_twice", "precision")  # fmt: skip
    given = {key: values[key] for key in order if key in values}
    shown = [f"{key.replace('_', ' ')} {f'{v:g}' if isinstance(v, float) else v}" for key, v in given.items()]
    return ", ".join(shown)
