"""The figures of the report page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from ddfast.evaluation.charts import Series, bar_chart, line_chart, size_text
from ddfast.evaluation.results import find_row, own_labels
from ddfast.store import DistilledSet

__all__ = ["contact_sheet", "equivalents", "per_class", "size_text", "training_curves"]

KINDS = {
    "distilled": ("distilled", 1),
    "random-images": ("random real, equal images", 2),
    "random-bytes": ("random real, equal bytes", 3),
    "full": ("all real pictures", 4),
}
_CLASSES, _COLUMNS, _BARS = 20, 10, 30

Report = Mapping[str, Any]


def contact_sheet(distilled: DistilledSet) -> str:
    """A row of pictures per class with the class name; of many classes some that are evenly spaced."""
    labels = distilled.labels.tolist()
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    present = sorted(members)
    shown = present if len(present) <= _CLASSES else [present[i * len(present) // _CLASSES] for i in range(_CLASSES)]
    side = int(distilled.images.shape[1])
    tiny = side <= 48
    scale = 2 if side <= 32 else 1
    rows = []
    widest = 0
    letters = min(max(len(distilled.class_names[label]) for label in shown), 22)
    for label in shown:
        chosen = members[label][:_COLUMNS]
        data, width = _strip([distilled.images[i].cpu().numpy() for i in chosen], side if tiny else min(side, 96))
        name = escape(distilled.class_names[label])
        widest = max(widest, width * scale)
        picture = f"class='{'tiny' if tiny else ''}' width='{width * scale}' alt='{len(chosen)} images of {name}'"
        heading = f"<span title='{name}' style='width:{letters}ch'>{name}</span>"
        rows.append(f"<div>{heading}<img {picture} src='data:image/png;base64,{data}'></div>")
    most = max(len(found) for found in members.values()) if members else 0
    notes = [f"{len(shown)} of {len(present)} classes"] * (len(shown) < len(present))
    notes += [f"{_COLUMNS} of {most} images per class"] * (most > _COLUMNS)
    note = f"<p class='small' style='margin-top:10px'>Shown: {', '.join(notes)}.</p>" if notes else ""
    least = widest + 9 * letters + 12
    columns = f"grid-template-columns:repeat(auto-fit,minmax(min(100%,{least}px),1fr))"
    return f"<div class='sheet' style='{columns}'>{''.join(rows)}</div>{note}"


def training_curves(report: Report, subject: str, student: str) -> str:
    """Test accuracy along the training: mean and range over students, with the labels the set is meant for."""
    own = own_labels(report["results"], subject)
    series = []
    for labels in dict.fromkeys((own, "hard")):
        for kind in ("distilled", "random-images"):
            row = find_row(report["results"], subject, kind, labels, student)
            if row is not None:
                text, tone = KINDS[kind]
                curve = row["curve"]
                series.append(
                    Series(
                        f"{text}, {labels} labels", tone, curve["epochs"], curve["mean"], curve["low"], curve["high"],
                        dashed=labels != own,
                    )
                )  # fmt: skip
    return line_chart(series, "epoch", "top-1 in %", title="Test accuracy by epoch") if series else ""


def per_class(report: Report) -> str:
    """Bars for up to 30 classes, sorted profiles for more; for the first set and student."""
    subject, student = report["sets"][0]["key"], report["students"][0]["name"]
    own = own_labels(report["results"], subject)
    found = []
    for kind in ("distilled", "random-images"):
        row = find_row(report["results"], subject, kind, own, student)
        if row is not None:
            found.append((*KINDS[kind], [value or 0.0 for value in row["per_class"]]))
    if not found:
        return ""
    names = report["class_names"]
    name = f"{report['sets'][0]['name']}: " if len(report["sets"]) > 1 else ""
    caption = f"{name}{report['students'][0]['label']}, {own} labels, mean over students, in %."
    if len(names) <= _BARS:
        series = [Series(text, tone, [], values) for text, tone, values in found]
        drawn = bar_chart(names, series, title="Accuracy of each class")
    else:
        rank = list(range(1, len(names) + 1))
        series = [Series(text, tone, rank, sorted(values, reverse=True)) for text, tone, values in found]
        drawn = line_chart(series, "classes, best first", "top-1 in %", title="Accuracy of the classes, sorted")
    return f"<div class='card'>{drawn}<p class='small' style='margin:8px 0 0'>{escape(caption)}</p></div>"


def equivalents(sizes: Mapping[str, Any]) -> str:
    """``5.2 real pictures per class``, or bits per class where the real pictures are not at hand."""
    if sizes["ipc_equivalent"] is None:
        return f"{size_text(sizes['bits_per_class'] / 8)} per class"
    return f"as {sizes['ipc_equivalent']:.3g} real pictures per class"


def _strip(images: list[np.ndarray], side: int) -> tuple[str, int]:
    """Pictures side by side with transparent gaps, as base64 PNG, and its width."""
    gap = max(1, side // 24)
    width = len(images) * (side + gap) - gap
    strip = Image.new("RGBA", (width, side), (0, 0, 0, 0))
    for place, pixels in enumerate(images):
        picture = Image.fromarray(pixels)
        if picture.size != (side, side):
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        strip.paste(picture, (place * (side + gap), 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode(), width
