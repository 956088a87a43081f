"""A scatter plot whose markers have a size: three values of a point in one figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ddfast.evaluation.charts import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    frame,
    log_ticks,
    percent_axis,
    svg,
    tick_middle,
)

SMALL, LARGE = 4.0, 15.0  # radius in pixels of the least and the largest size
_LINE = 13  # height of a label in pixels
_ROOM = 1.5  # beside the outermost points, as a factor


@dataclass(frozen=True)
class Bubble:
    """A marker at (``x``, ``y``) with an area for ``size``; y and its ends ``low`` and ``high`` are fractions of 1.

    ``shape``: circle, square, diamond or triangle; ``tone``: number of a CSS colour; ``label`` is drawn beside it,
    ``about`` shown when it is pointed at.
    """

    x: float
    y: float
    size: float
    tone: int
    shape: str = "circle"
    hollow: bool = False
    low: float | None = None
    high: float | None = None
    label: str = ""
    about: str = ""


def bubble_chart(
    bubbles: Sequence[Bubble], x_label: str, y_label: str, *, title: str, x_text: Callable[[float], str]
) -> str:
    """Markers over a logarithmic x axis; the area grows with the logarithm of the size.

    Args:
        bubbles: at least one; x and size positive.
        x_label, y_label: of the axes.
        title: read out by screen readers.
        x_text: of a value on the x axis.
    """
    low, high = min(b.x for b in bubbles) / _ROOM, max(b.x for b in bubbles) * _ROOM
    x_axis = Axis(low, high, LEFT, WIDTH - RIGHT, log=True)
    ends = [v for b in bubbles for v in (b.y, b.low, b.high) if v is not None]
    y_axis = percent_axis(ends)
    scale = size_scale([b.size for b in bubbles])
    parts = [frame(x_axis, y_axis, _spread(log_ticks(low, high), x_axis, x_text), x_label, y_label)]
    placed = sorted(bubbles, key=lambda b: -b.size)  # small ones on top
    spots = [(x_axis(b.x), y_axis(b.y), scale(b.size)) for b in placed]
    parts += [_marked(b, spot, y_axis) for b, spot in zip(placed, spots, strict=True)]
    parts += _labels(placed, spots)
    return svg(parts, title)


def size_scale(sizes: Sequence[float]) -> Callable[[float], float]:
    """Radius in pixels of a size: the area grows with its logarithm."""
    low, high = math.log(min(sizes)), math.log(max(sizes))
    span = high - low

    def radius(size: float) -> float:
        share = (math.log(size) - low) / span if span > 1e-9 else 0.5
        return math.sqrt(SMALL**2 + share * (LARGE**2 - SMALL**2))

    return radius


def size_legend(sizes: Sequence[float], what: str, text: Callable[[float], str]) -> str:
    """Circles of the least and the largest size with their values."""
    low, high = min(sizes), max(sizes)
    scale = size_scale(sizes)
    shown = [low] if high / low < 1.05 else [low, high]
    items = "".join(
        f'<span><i class="ring" style="width:{2 * scale(s):.0f}px;height:{2 * scale(s):.0f}px"></i>'
        f"{escape(text(s))}</span>"
        for s in shown
    )
    return f'<div class="legend"><span>marker area, logarithmic: {escape(what)}</span>{items}</div>'


def _marked(bubble: Bubble, spot: tuple[float, float, float], y_axis: Axis) -> str:
    x, y, r = spot
    whisker = ""
    if bubble.low is not None and bubble.high is not None and bubble.high > bubble.low:
        top, bottom = y_axis(bubble.high), y_axis(bubble.low)
        whisker = f'<path class="whisker t{bubble.tone}" d="M{x:.1f} {top:.1f}V{bottom:.1f}"/>'
    kind = f"bubble t{bubble.tone}{' hollow' if bubble.hollow else ''}"
    about = f"<title>{escape(bubble.about)}</title>" if bubble.about else ""
    return f"<g>{about}{whisker}{_shape(bubble.shape, kind, x, y, r)}</g>"


def _shape(shape: str, kind: str, x: float, y: float, r: float) -> str:
    """Of equal area whatever the shape."""
    if shape == "circle":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'
    corners = {"square": (4, 45.0), "diamond": (4, 0.0), "triangle": (3, -90.0)}
    count, turn = corners[shape]
    reach = r * math.sqrt(2 * math.pi / (count * math.sin(2 * math.pi / count)))
    angles = [math.radians(turn + 360 * k / count) for k in range(count)]
    points = " ".join(f"{x + reach * math.cos(a):.1f},{y + reach * math.sin(a):.1f}" for a in angles)
    return f'<polygon class="{kind}" points="{points}"/>'


def _spread(ticks: Sequence[float], axis: Axis, text: Callable[[float], str]) -> list[tuple[float, str]]:
    """Those ticks whose words do not touch."""
    kept: list[tuple[float, str]] = []
    end = -math.inf
    for value in ticks:
        words = text(value)
        half = len(words) * LETTER / 2 + 4
        middle = tick_middle(axis(value), words)
        if middle - half >= end:
            kept.append((value, words))
            end = middle + half
    return kept


def _labels(bubbles: Sequence[Bubble], spots: Sequence[tuple[float, float, float]]) -> list[str]:
    """Words beside markers, where they cover neither words nor markers if there is such a place."""
    taken = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    parts = []
    for bubble, (x, y, r) in zip(bubbles, spots, strict=True):
        if not bubble.label:
            continue
        width = len(bubble.label) * LETTER
        places = [
            (left, middle)
            for lift in (0, -_LINE, _LINE, -2 * _LINE, 2 * _LINE)
            for left, middle in ((x + r + 5, y + lift), (x - r - 5 - width, y + lift))
        ]
        places += [(x - width / 2, y - r - 9), (x - width / 2, y + r + 9)]
        boxes = [(left, middle - 6, left + width, middle + 6) for left, middle in places]
        inside = [
            box for box in boxes if box[0] >= LEFT and box[2] <= WIDTH - 2 and TOP - 6 <= box[1] < HEIGHT - BOTTOM
        ]
        chosen = min(inside or boxes, key=lambda box: sum(_overlap(box, other) for other in taken))
        taken.append(chosen)
        words = escape(bubble.label)
        parts.append(f'<text class="name" x="{chosen[0]:.1f}" y="{(chosen[1] + chosen[3]) / 2 + 4:.1f}">{words}</text>')
    return parts


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide, tall = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * tall if wide > 0 and tall > 0 else 0.0
