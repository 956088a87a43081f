"""The results as bars: the share of the machine's limit that ddfast and its rivals reach. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.bench.results import Result
from ddfast.bench.table import milliseconds, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS, LIMIT = "#1b6ca8", "#b9c2cc", "#c0392b"
BAR = 0.38
# on white, so that the line of the limit does not strike words through
_TEXT: dict[str, Any] = {"va": "center", "fontsize": 8, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.8}}


def draw(results: Sequence[Result], machine: str, path: Path) -> None:
    """Writes ``path``: two bars a case that has a limit, ddfast's above its rival's; longer is better.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: no case has a limit.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [result for result in results if result.x_of_limit]
    if not shown:
        raise ValueError("results: no case was measured, so there is nothing to draw")
    figure = Figure(figsize=(9, 1.4 + 0.72 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for row, result in enumerate(shown):
        _bars(axes, row, result)
    _frame(axes, shown, machine)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def _bars(axes: Axes, row: int, result: Result) -> None:
    share = 100 / (result.x_of_limit or 1)
    axes.barh(row - BAR / 2, share, BAR, color=OURS, label="ddfast" if row == 0 else None)
    axes.text(
        share + 1,
        row - BAR / 2,
        f"{milliseconds(result.seconds or 0)} ms, {result.x_of_limit:.2f} x of the limit",
        **_TEXT,
    )
    if result.rival_seconds and result.over:
        theirs = share / result.over.median
        axes.barh(row + BAR / 2, theirs, BAR, color=THEIRS, label="rival, named beside its bar" if row == 0 else None)
        text = f"{milliseconds(result.rival_seconds)} ms, {result.over.median:.1f}x the time: {result.rival}"
        axes.text(theirs + 1, row + BAR / 2, text, color="#555555", **_TEXT)


def _frame(axes: Axes, shown: Sequence[Result], machine: str) -> None:
    names = [f"{title(result)}\n({result.floor.binding if result.floor else ''})" for result in shown]
    axes.set_yticks(range(len(shown)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(100, color=LIMIT, linewidth=1.5, label="the limit")
    axes.set_xlim(0, max(125, *(115 / (result.x_of_limit or 1) for result in shown)))
    axes.set_xlabel("share of this machine's limit, percent (longer is better); in brackets: what binds", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(f"ddfast bench: {machine}", fontsize=10, loc="left")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.05), ncols=3, fontsize=8, frameon=False)
