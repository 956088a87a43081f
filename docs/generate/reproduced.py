"""Tables of papers and studies, from ``benchmarks/reproduced`` alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ddfast.reproduce import REPRODUCTIONS, markdown
from ddfast.studies import STUDIES
from docs.generate.settings import table as rows_of

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "reproduced"


def record(name: str) -> dict[str, Any]:
    """A committed result.

    Raises:
        FileNotFoundError: none of this name is committed.
    """
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(name: str) -> str:
    """The table of a paper's row made again."""
    return markdown(record(name))


def study(name: str) -> str:
    """All tables of a study."""
    return markdown(record(name))


def names() -> str:
    """What ``ddfast reproduce`` takes."""
    found = {**REPRODUCTIONS, **STUDIES}
    return rows_of(["name", "what"], [[f"`{name}`", one.about] for name, one in sorted(found.items())])


def twenty_classes() -> str:
    """RDED on 20 classes of ImageNet."""
    results = {(row["images"], row["labels"]): row["top1"] for row in record("rded-imagenet20-lite0")["results"]}
    rows = [
        [name, *(f"{100 * mean(found):.1f} ± {100 * stdev(found):.1f}" for found in
                 (results[images, labels] for labels in ("hard", "soft")))]
        for name, images in (("RDED", "distilled"), ("random pictures", "random-images"))
    ]  # fmt: skip
    return rows_of(["200 images", "hard labels", "soft labels (T = 20)"], rows)


def demo() -> str:
    """What students of the demo's sets learn.

    ``demo.json`` is the ``results.json`` of ``ddfast demo`` with name, commit, threads and versions.
    """
    results = record("demo")
    kinds = list(dict.fromkeys(row["labels"] for row in results["students"]))
    found = {(row["images"], row["labels"]): row["top1"] for row in results["students"]}
    rows = [
        [images, *(_spread(found[images, kind]) if (images, kind) in found else "" for kind in kinds)]
        for images in dict.fromkeys(row["images"] for row in results["students"])
    ]
    return rows_of([f"top-1 %, {len(results['students'][0]['top1'])} students each", *kinds], rows)


def scale() -> str:
    """What a thousand simulated workers waste."""
    rows = [
        [str(row["per_machine"]), f"{row['seconds']:g} s", f"{row['hours']:.1f} h", f"{row['lost']:.0f}",
         f"{100 * row['calm']:.1f} %", f"{100 * row['waste']:.1f} %"]
        for row in record("scale-simulation")["rows"]
    ]  # fmt: skip
    head = ["workers a machine", "a task takes", "the run", "workers lost", "wasted without losses", "with them"]
    return rows_of(head, rows)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
