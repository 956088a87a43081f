"""The readable end of the pack: what ran, what it measured; rewritten after every step."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

from benchmarks.gpu_pack.parts import TITLES
from benchmarks.gpu_pack.steps import Outcome, read_outcomes

BUNDLED = ("steps", "logs", "results", "end_to_end", "traces")


def write(out: Path, machine: list[str], dry: bool) -> Path:
    """Writes ``summary.md`` and ``pack.tar.gz`` (everything measured, in one file)."""
    outcomes = read_outcomes(out)
    lines = ["# ddfast on a GPU" + (": dry run without the device" if dry else ""), "", *machine, ""]
    for part, title in TITLES.items():
        found = [outcome for outcome in outcomes if outcome.part == part]
        lines += [f"## Part {part}: {title}", "", *(_steps(found) if found else ["not run yet"]), ""]
    lines += _records(out) + _runs(out)
    path = out / "summary.md"
    path.write_text("\n".join(lines) + "\n")
    with tarfile.open(out / "pack.tar.gz", "w:gz") as bundle:
        for name in ("summary.md", *BUNDLED):
            if (out / name).exists():
                bundle.add(out / name, arcname=name)
    return path


def _steps(outcomes: list[Outcome]) -> list[str]:
    head = ["| step | outcome | seconds | last line or reason |", "| --- | --- | ---: | --- |"]
    return head + [f"| {o.name} | {o.status} | {o.seconds:.1f} | {o.detail.replace('|', '/')} |" for o in outcomes]


def _records(out: Path) -> list[str]:
    rows = []
    for path in sorted((out / "results").glob("*/*.json")):
        for record in json.loads(path.read_text())["records"]:
            rows.append(_row(record))
    if not rows:
        return []
    head = ["| group | case | shape | ms | GB/s | GFLOP/s | x of the limit | ddfast is faster by |"]
    return ["## Kernels and forward", "", *head, "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |", *rows, ""]


def _row(record: dict[str, Any]) -> str:
    spread = record["device_s"] or record["cpu_s"] or record["wall_s"]
    ratio = record["over_ddfast"]["median"] if record["over_ddfast"] else None
    numbers = (1e3 * spread["median"], record["gb_per_s"], record["gflop_per_s"], record["x_of_limit"], ratio)
    cells = " | ".join("" if value is None else f"{value:.4g}" for value in numbers)
    return f"| {record['group']} | {record['name']} | {record['shape']} | {cells} |"


def _runs(out: Path) -> list[str]:
    lines: list[str] = []
    for path in sorted((out / "end_to_end").glob("*.json")):
        run = json.loads(path.read_text())
        lines += [
            f"### {run['name']}", "",
            f"{run['pictures']} pictures ({'made up' if run['made_up_pictures'] else 'real'}, "
            f"{run['mean_jpeg_bytes'] / 1e3:.0f} kB) in {run['seconds']:.1f} s on {run['cpu_cores']} cores: "
            f"{run['pictures_per_second']:.0f} pictures/s beyond {run['setup_seconds']:.1f} s of set-up; "
            f"ImageNet-1K at this rate {run['imagenet_1k_seconds']:.0f} s",
            "", "```", *run["report"], "```", "",
        ]  # fmt: skip
    return ["## RDED end to end", "", *lines] if lines else []
