"""The results as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ddfast.bench.results import Result

HEAD = ("case", "ms", "rate", "x of the limit", "rival", "rival/ours")


def table(results: Sequence[Result]) -> str:
    """One aligned line a case, then what failed and what each case was."""
    rows = [HEAD, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(_cell(row[k], widths[k], k) for k in range(len(HEAD))).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    lines += ["", *(f"{title(result)}: {result.shape}" for result in results if result.shape)]
    lines += ["", *(f"FAILED {title(each)}: {each.reason}" for each in results if each.failed)]
    return "\n".join([*lines, *(result.note for result in results if result.note)]).rstrip()


def title(result: Result) -> str:
    """Name, and the device when it is not the CPU."""
    return result.name if result.device == "cpu" else f"{result.name}, {result.device}"


def milliseconds(seconds: float) -> str:
    """Three digits."""
    value = 1e3 * seconds
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def describe(machine: dict[str, Any], versions: dict[str, str]) -> str:
    """Two lines."""
    gpu = machine["gpu"]
    parts = [f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['isa']) or 'no vector extensions'})"]
    parts += [f"{machine['memory_gib']:.0f} GiB", gpu["name"] if gpu else "no GPU", machine["os"]]
    found = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"machine: {', '.join(parts)}\nversions: {found}"


def _row(result: Result) -> tuple[str, ...]:
    if result.failed or result.seconds is None:
        return title(result), "FAILED", "", "", result.rival, ""
    number = f"{result.rate:,.0f}" if (result.rate or 0) >= 100 else f"{result.rate:.3g}"
    rate = f"{number} {result.unit}{'es' if result.unit.endswith('ch') else 's'}/s"
    limit = f"{result.x_of_limit:.2f} ({result.floor.binding})" if result.floor else ""
    over = f"{result.over.median:.2f}" if result.over else ""
    return title(result), milliseconds(result.seconds), rate, limit, result.rival, over


def _cell(text: str, width: int, column: int) -> str:
    return text.rjust(width) if column in (1, 2, 5) else text.ljust(width)
