"""``report.html`` of a class-incremental evaluation: one page without external files or scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ddfast.evaluation import figures
from ddfast.evaluation.charts import Series, line_chart
from ddfast.evaluation.incremental.report import caption, cell, row_name
from ddfast.evaluation.page import document, section
from ddfast.evaluation.tables import recipe_text, table
from ddfast.store import DistilledSet

_TONES = 4


def render(report: Mapping[str, Any], sets: Sequence[DistilledSet]) -> str:
    """The page of a valid report.

    Args:
        report: see `ddfast.evaluation.incremental.report`.
        sets: the distilled sets, for their contact sheets.
    """
    config, classes = report["config"], len(report["class_names"])
    heading = f"Class-incremental learning of {classes} classes in {config['steps']} steps"
    memory = ", ".join(f"{entry['name']} ({entry['ipc']} images per class)" for entry in report["sets"])
    lead = f"{memory}; {', '.join(student['label'] for student in report['students'])}."
    sheets = "".join(
        f"<div class='card'><h3>{escape(entry['name'])}</h3>{figures.contact_sheet(one)}</div>"
        for entry, one in zip(report["sets"], sets, strict=True)
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    body = "".join(
        [
            f"<h1>{escape(heading)}</h1><p class='lead'>{escape(lead)}</p>",
            section("Accuracy by step", f"<div class='card'>{_figure(report)}</div>"),
            section("In figures", _table(report)),
            section("The distilled images", sheets),
            section("How it was made", _facts(report)),
            section("Notes", f"<ul>{notes}</ul>" if notes else ""),
        ]
    )
    return document(heading, body, "orders and students")


def _figure(report: Mapping[str, Any]) -> str:
    series = []
    for place, row in enumerate(report["results"]):
        means = [entry["mean"] for entry in row["top1"]]
        spread = [entry["std"] or 0.0 for entry in row["top1"]]
        low = [max(0.0, m - s) for m, s in zip(means, spread, strict=True)]
        high = [min(1.0, m + s) for m, s in zip(means, spread, strict=True)]
        dashed = place // _TONES % 2 == 1
        name = row_name(report, row)
        series.append(Series(name, place % _TONES + 1, report["seen"], means, low, high, dashed=dashed))
    return line_chart(series, "classes seen", "top-1 in %", title="Test accuracy by classes seen")


def _table(report: Mapping[str, Any]) -> str:
    head = "<th>memory</th>" + "".join(f"<th>{count} classes</th>" for count in report["seen"]) + "<th>average</th>"
    body = [
        f"<tr><td>{escape(row_name(report, row))}</td>"
        + "".join(f"<td>{cell(entry)}</td>" for entry in (*row["top1"], row["average"]))
        + "</tr>"
        for row in report["results"]
    ]
    return f"{table(head, body)}<p class='small' style='margin-top:8px'>{escape(caption(report, report['config']))}</p>"


def _facts(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    items = {
        "recipe": f"{report['protocol']['name']}: {report['protocol']['about']}",
        "student training": recipe_text(report["results"][0]["recipe"]),
        "class orders": f"permutations of the labels by NumPy's seeds 0 to {len(report['orders']) - 1}",
        "test pictures": (
            f"{report['validation']['name']}, {report['validation']['images']:,} pictures, "
            f"{report['validation']['preparation']}"
        ),
        "sets, SHA-256": ", ".join(entry["sha256"][:16] for entry in report["sets"]),
        "trainings": f"{sum(row['seconds'] for row in report['results']):,.0f} s in all",
        "machine": f"{machine['device']}, threads a student: {machine['threads']}, {machine['processor']}",
        "versions": ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
    }
    inner = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in items.items())
    return f"<div class='card'><dl>{inner}</dl></div>"
