"""Figures as inline SVG; colours come from the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 500, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 14, 14, 44
LETTER = 7.3  # most that a letter of a label is wide, in pixels


@dataclass(frozen=True)
class Series:
    """One line or group of points; ``tone`` is the number of a CSS colour; ``low`` and ``high`` make a band or bar."""

    label: str
    tone: int
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Axis:
    """Maps values to pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, v = (
            (math.log(self.low), math.log(self.high), math.log(value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (v - low) / ((high - low) or 1.0) * (self.end - self.start)


def line_chart(series: Sequence[Series], x_label: str, y_label: str, *, title: str) -> str:
    """Lines with bands from ``low`` to ``high``; y in percent.

    Args:
        series: at least one, x increasing.
        x_label, y_label: of the axes.
        title: read out by screen readers.
    """
    xs = [x for one in series for x in one.x]
    x_axis = Axis(0, max(xs), LEFT, WIDTH - RIGHT)
    y_axis = percent_axis([v for one in series for v in (*one.y, *one.low, *one.high)])
    parts = [frame(x_axis, y_axis, _ticks(0, max(xs)), x_label, y_label)]
    for one in series:
        if one.low:
            upper = [f"{x_axis(x):.1f},{y_axis(v):.1f}" for x, v in zip(one.x, one.high, strict=True)]
            lower = [f"{x_axis(x):.1f},{y_axis(v):.1f}" for x, v in zip(one.x, one.low, strict=True)]
            parts.append(f'<polygon class="band t{one.tone}" points="{" ".join(upper + lower[::-1])}"/>')
    for one in series:
        points = " ".join(f"{x_axis(x):.1f},{y_axis(y):.1f}" for x, y in zip(one.x, one.y, strict=True))
        dash = ' stroke-dasharray="5 4"' if one.dashed else ""
        parts.append(f'<polyline class="line t{one.tone}" points="{points}"{dash}/>')
        if len(one.x) <= 20:
            dots = zip(one.x, one.y, strict=True)
            parts += [
                f'<circle class="dot t{one.tone}" cx="{x_axis(x):.1f}" cy="{y_axis(y):.1f}" r="3"/>' for x, y in dots
            ]
    return svg(parts, title) + legend(series)


def bar_chart(names: Sequence[str], series: Sequence[Series], *, title: str) -> str:
    """Horizontal bars in groups, one group a name; y in fractions of 1."""
    thick, gap = 9, 12
    step = thick * len(series) + gap
    left = 14 + 7 * min(max(map(len, names)), 24)
    height, width = step * len(names) + 30, 960
    axis = Axis(0, 1, left, width - 60)
    parts = [
        f'<path class="grid" d="M{axis(v):.1f} 4V{height - 24}"/>'
        f'<text class="tick" x="{axis(v):.1f}" y="{height - 8}" text-anchor="middle">{round(100 * v)} %</text>'
        for v in (0, 0.25, 0.5, 0.75, 1)
    ]
    for row, name in enumerate(names):
        top = 6 + row * step
        middle = top + thick * len(series) / 2
        text = escape(_short(name, 24))
        parts.append(f'<text class="name" x="{left - 8}" y="{middle + 4:.1f}" text-anchor="end">{text}</text>')
        for place, one in enumerate(series):
            y, end = top + place * thick, axis(one.y[row])
            parts.append(
                f'<rect class="bar t{one.tone}" x="{left}" y="{y}" width="{max(end - left, 0.5):.1f}" '
                f'height="{thick - 1.5}" rx="1.5"/>'
            )
            if place == 0:
                parts.append(
                    f'<text class="value" x="{max(end, axis(series[-1].y[row])) + 6:.1f}" y="{middle + 4:.1f}">'
                    f"{100 * one.y[row]:.0f}</text>"
                )
    return svg(parts, title, width, height) + legend(series)


def legend(series: Sequence[Series], *, points: bool = False, note: str = "") -> str:
    """Names beside their colours, and a note behind them."""
    kind = "key point" if points else "key"
    items = [
        f'<span><i class="{kind} t{one.tone}{" hollow" if one.dashed else ""}"></i>{escape(one.label)}</span>'
        for one in series
    ]
    items += [f"<span>{escape(note)}</span>"] * bool(note)
    return f'<div class="legend">{"".join(items)}</div>'


def size_text(count: float) -> str:
    """Bytes for people: ``3.2 kB``, powers of 1000."""
    return _with_unit(count, "B", "kMG")


def flops_text(count: float) -> str:
    """Floating-point operations for people: ``3.2 TFLOP``, powers of 1000."""
    return _with_unit(count, "FLOP", "kMGTPE")


def _with_unit(count: float, unit: str, prefixes: str) -> str:
    for place in range(len(prefixes), 0, -1):
        if count >= 1000**place:
            value = count / 1000**place
            digits = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
            return f"{digits} {prefixes[place - 1]}{unit}"
    return f"{count:.0f} {unit}"


def svg(parts: Sequence[str], title: str, width: int = WIDTH, height: int = HEIGHT) -> str:
    """A figure of SVG elements."""
    text = escape(title)
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text}">{"".join(parts)}</svg>'


def frame(x_axis: Axis, y_axis: Axis, ticks: Sequence[tuple[float, str]], x_label: str, y_label: str) -> str:
    """Axes with ``ticks`` (value, words) across, a grid of whole percents, and their labels."""
    parts = []
    for value in _steps(y_axis.low, y_axis.high):
        y = y_axis(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{round(100 * value)}</text>')
    for value, text in ticks:
        x = x_axis(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {HEIGHT - BOTTOM}v4"/>')
        middle = tick_middle(x, text)
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'
        )
    parts.append(f'<path class="axis" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="label" x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_label)}</text>')
    y = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text class="label" transform="translate(12 {y}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>'
    )
    return "".join(parts)


def tick_middle(x: float, words: str) -> float:
    """The middle of words under an axis at ``x``: there, or so far aside that the figure does not cut them."""
    half = len(words) * LETTER / 2
    return min(max(x, half), WIDTH - half)


def percent_axis(values: Sequence[float]) -> Axis:
    """The y axis for fractions of 1, with room beyond them."""
    low, high = min(values), max(values)
    margin = max(0.02, 0.12 * (high - low))
    low, high = max(0.0, low - margin), min(1.0, high + margin)
    return Axis(low, high, HEIGHT - BOTTOM, TOP)


def _steps(low: float, high: float) -> list[float]:
    """Four to eight round fractions between two, whole percents."""
    size = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (high - low) / s <= 8), 0.25)
    first = math.ceil(low / size - 1e-9)
    return [size * n for n in range(first, math.floor(high / size + 1e-9) + 1)]


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    raw = (high - low) / 5 or 1
    magnitude = 10 ** math.floor(math.log10(raw))
    size = max(1, next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw))
    return [(n * size, f"{n * size:g}") for n in range(int(low // size), int(high // size) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Round values between two: 1, 2, 5 of each power of ten, or the powers alone over a wide range."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = high / low > 300
    found = [m * 10.0**e for e in exponents for m in ((1,) if wide else (1, 2, 5)) if low <= m * 10.0**e <= high]
    return found or [math.sqrt(low * high)]


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
