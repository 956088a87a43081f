"""Tables of a study, made from its results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

MINUS = " - "


@dataclass(frozen=True)
class Table:
    """A table of results.

    Attributes:
        title: above it.
        columns: of the header; the first is that of the rows' labels.
        rows: a label each and the names of results; ``"a - b"`` is the difference of two, seed by seed.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"rows: {row[0]!r} has {len(row)} cells, expected {len(self.columns)}")


def markdown(table: Table, record: Mapping[str, Any]) -> str:
    """For a README.

    Args:
        table: which.
        record: what `ddfast.studies.run_study` returned, or ``table.json`` holds.

    Raises:
        KeyError: the record lacks a result.
    """
    lines = [
        f"**{table.title}**",
        "",
        f"| {' | '.join(table.columns)} |",
        f"| --- |{' ---: |' * (len(table.columns) - 1)}",
    ]
    lines += [f"| {row[0]} | {' | '.join(cell(name, record['values']) for name in row[1:])} |" for row in table.rows]
    return "\n".join([*lines, ""])


def cell(name: str, values: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """``45.3 ± 0.8``: percent, mean and sample standard deviation over all students of all seeds; of a difference
    ``+1.2 ± 0.6``, over the seeds' means."""
    if not name:
        return ""
    for each in name.split(MINUS):
        if each not in values:
            raise KeyError(f"{each}: no such result; there are {', '.join(values)}")
    if MINUS not in name:
        return _text([value for seed in values[name] for value in seed])
    first, second = ([mean(seed) for seed in values[each]] for each in name.split(MINUS))
    return _text([a - b for a, b in zip(first, second, strict=True)], sign="+")


def _text(found: Sequence[float], sign: str = "") -> str:
    spread = f" ± {100 * stdev(found):.1f}" if len(found) > 1 else ""
    return f"{100 * mean(found):{sign}.1f}{spread}"
