"""Accuracy, bytes and training cost on the report page: two projections of the three, and the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ddfast.evaluation.bubbles import Bubble, bubble_chart, size_legend
from ddfast.evaluation.charts import flops_text, size_text
from ddfast.evaluation.figures import KINDS
from ddfast.evaluation.tables import percent, table
from ddfast.evaluation.tradeoff import cost_of, drawn

Report = Mapping[str, Any]
_SHAPES = {"distilled": "circle", "random-images": "triangle", "random-bytes": "square", "full": "diamond"}
_TONES = 6


def figure(report: Report) -> str:
    """For each student accuracy by bytes (markers grow with cost) beside accuracy by cost (markers grow with bytes)."""
    students = report["students"]
    parts = []
    for student in students:
        points = drawn(report["tradeoff"], student["name"])
        if points:
            parts.append(_pair(report, points, f": {student['label']}" if len(students) > 1 else ""))
    return "".join(parts)


def points_table(report: Report) -> str:
    """All three values of every point, with what they are made of."""
    labels = {student["name"]: student["label"] for student in report["students"]}
    names = {entry["key"]: entry["name"] for entry in report["sets"]}
    body = []
    for point in report["tradeoff"]:
        where = f"{names[point['set']]}: " if len(names) > 1 else ""
        own = " class='own'" if point["images"] == "distilled" else ""
        student = f"{labels[point['student']]}, " if len(labels) > 1 else ""
        words = f"<em>{escape(student)}{point['labels']} labels</em>"
        soft = f"<br><em>{size_text(point['label_bytes'])} of labels</em>" if point["label_bytes"] else ""
        row = _row_of(report, point)
        body.append(
            f"<tr{own}><td>{escape(where + KINDS[point['images']][0])}<br>{words}</td>"
            f"<td>{percent(point['top1'], small=False)}</td><td>{size_text(point['bytes'])}{soft}</td>"
            f"<td>{_flops(point['flops'])}</td><td>{_flops(row.get('decoding'))}</td><td>{_flops(row.get('teacher'))}"
            f"</td><td>{point['steps']:,}</td><td>{point['seconds']:.1f}</td></tr>"
        )
    head = (
        "<th>trained on</th><th>top-1 in %</th><th>bytes</th><th>one student</th><th>of it decoding</th>"
        "<th>teacher</th><th>steps</th><th>seconds</th>"
    )
    machine = report["machine"].get("name") or report["machine"]["processor"]
    note = (
        "FLOPs: two for each multiply-add of convolutions and products, forward and backward (three forwards) over all "
        "pictures seen, decoding them, and the teacher's forward where it labels views as they come. Bytes of a row "
        "with hard labels leave stored soft labels out. Seconds, with tests, on "
        f"{machine}, {report['machine']['threads']} {'thread' if report['machine']['threads'] == 1 else 'threads'}."
    )
    return f"{table(head, body)}<p class='small' style='margin-top:8px'>{escape(note)}</p>"


def _row_of(report: Report, point: Report) -> Mapping[str, Any]:
    keys = ("set", "images", "labels", "student")
    found = next(row for row in report["results"] if row["augmented"] and all(row[key] == point[key] for key in keys))
    return found["cost"]["flops"] or {}


def _pair(report: Report, points: Sequence[Report], suffix: str) -> str:
    flops = all(point["flops"] for point in points)
    text = flops_text if flops else seconds_text
    costs = [cost_of(point, flops=flops) for point in points]
    sizes = [max(float(point["bytes"]), 1.0) for point in points]
    what = "FLOPs of one student" if flops else "seconds of one student"
    by_bytes = bubble_chart(
        [_bubble(report, p, x, s, text) for p, x, s in zip(points, sizes, costs, strict=True)],
        "bytes with labels", "top-1 in %", title=f"Test accuracy by bytes{suffix}", x_text=size_text,
    )  # fmt: skip
    by_cost = bubble_chart(
        [_bubble(report, p, x, s, text) for p, x, s in zip(points, costs, sizes, strict=True)],
        what, "top-1 in %", title=f"Test accuracy by training cost{suffix}", x_text=text,
    )  # fmt: skip
    cards = [
        f"<div class='card'><h3>{heading}{escape(suffix)}</h3>{chart}{legend}</div>"
        for heading, chart, legend in (
            ("Accuracy by storage", by_bytes, size_legend(costs, "FLOPs" if flops else "seconds", text)),
            ("Accuracy by training cost", by_cost, size_legend(sizes, "bytes", size_text)),
        )
    ]
    return f"<div class='pair'>{''.join(cards)}</div>{_key(report, points)}"


def seconds_text(count: float) -> str:
    """``3.2 s``."""
    return f"{count:.3g} s"


def _bubble(report: Report, point: Report, x: float, size: float, text: Any) -> Bubble:
    top1, spread = point["top1"]["mean"], point["top1"]["std"] or 0.0
    name = _name(report, point["set"])
    cost = flops_text(point["flops"]) if point["flops"] else seconds_text(point["seconds"])
    about = (
        f"{name}: {KINDS[point['images']][0]}, {point['labels']} labels: {100 * top1:.1f} %, "
        f"{size_text(point['bytes'])}, {cost}, {point['steps']:,} steps"
    )
    own = point["images"] == "distilled" and len(report["sets"]) > 1
    soft = any(p["labels"] == "soft" and p["set"] == point["set"] for p in report["tradeoff"])
    label = name if own and (point["labels"] == "soft" or not soft) else ""
    return Bubble(
        x, top1, size, _tone(report, point), _SHAPES[point["images"]], soft and point["labels"] == "hard",
        max(0.0, top1 - spread), min(1.0, top1 + spread), label if len(label) <= 22 else label[:21] + "…", about,
    )  # fmt: skip


def _tone(report: Report, point: Report) -> int:
    """Of several sets a colour each; of one a colour for each kind of pictures."""
    keys = [entry["key"] for entry in report["sets"]]
    return KINDS[point["images"]][1] if len(keys) == 1 else keys.index(point["set"]) % _TONES + 1


def _name(report: Report, key: str) -> str:
    return next(str(entry["name"]) for entry in report["sets"] if entry["key"] == key)


def _key(report: Report, points: Sequence[Report]) -> str:
    """What colours, shapes and filling mean."""
    several = len(report["sets"]) > 1
    items = []
    if several:
        items += [
            f'<span><i class="key t{place % _TONES + 1}"></i>{escape(entry["name"])}</span>'
            for place, entry in enumerate(report["sets"])
        ]
    for kind, (text, tone) in KINDS.items():
        if any(point["images"] == kind for point in points):
            colour = "ink" if several else f"t{tone}"
            items.append(f'<span><i class="key point {_SHAPES[kind]} {colour}"></i>{escape(text)}</span>')
    if any(point["labels"] == "soft" for point in points):
        items.append("<span>filled: soft labels, hollow: hard labels</span>")
    return f'<div class="legend under">{"".join(items)}</div>'


def _flops(count: int | None) -> str:
    return escape(flops_text(count)) if count else "–"
