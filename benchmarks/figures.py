"""Bar charts of a result file: ddfast against the baselines, with the limit marked. Needs matplotlib (extra: plots)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.report import groups

matplotlib.use("Agg")
OURS, THEIRS, LIMIT = "#1b6ca8", "#b9c2cc", "#c0392b"
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


def draw(content: dict[str, Any], folder: Path) -> Path:
    """Write ``<folder>/<suite>.png``: one panel a group, time of an item, shorter is better; red is the limit."""
    panels = list(groups(content).items())
    heights = [0.9 + 0.24 * len(records) for _, records in panels]
    figure = Figure(figsize=(7.5, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (group, records) in zip(axes, panels, strict=True):
        _panel(axis, group, records)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['suite']}.png"
    # no software version or date in the file: the same results give the same bytes
    figure.savefig(path, dpi=80, metadata={"Software": None})
    return path


def _panel(axis: Axes, group: str, records: list[dict[str, Any]]) -> None:
    each = [record["seconds"] / record["items"] for record in records]
    scale, unit = next((pair for pair in _UNITS if max(each) >= pair[0]), _UNITS[-1])
    names = [record["name"] for record in records]
    colours = [THEIRS if record["baseline"] else OURS for record in records]
    bars = axis.barh(names, [value / scale for value in each], color=colours)
    axis.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    limits = {record["limit"]["seconds"] / record["items"] for record in records if record["limit"]}
    if limits:
        axis.axvline(min(limits) / scale, color=LIMIT, linewidth=1.5)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.tick_params(labelsize=8)
    axis.set_title(f"{group}: {unit} a {records[0]['unit']}, red: the limit", fontsize=9, loc="left")
    axis.spines[["top", "right"]].set_visible(False)
