"""The pictures of the pages: ``python -m docs.make_pictures``. A real RDED run of built-in digits, and real results."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import ddfast
from benchmarks.ops_table import OPS
from benchmarks.records import load_all
from benchmarks.report import ratio

IMAGES = Path(__file__).resolve().parent / "images"
PLAIN, FASTEST, OURS = "#b9c2cc", "#7f8c99", "#1b6ca8"


def main() -> int:
    """Writes both pictures."""
    IMAGES.mkdir(exist_ok=True)
    mosaics(IMAGES / "mosaics.png")
    speed(IMAGES / "speed.png")
    return 0


def mosaics(path: Path) -> None:
    """Five mosaics of 2 x 2 patches of each of the ten digits."""
    with tempfile.TemporaryDirectory() as scratch:
        made = ddfast.distill(
            "rded", "mnist5k", observer="train:conv3", ipc=5, factor=2, size=64, mipc=100, scale=(0.5, 1.0),
            format="png", out=Path(scratch) / "mosaics", quiet=True,
        )  # fmt: skip
        made.contact_sheet(path)


def speed(path: Path) -> None:
    """Two bars an op: how many times ddfast's time the plain way takes, and the fastest other one."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    contents = [content for content in load_all() if not content["machine"]["gpu"]]
    rows = [(name, *found) for name, op in OPS.items() if (found := _ratios(op.group, op.plain, contents))]
    rows.sort(key=lambda row: -row[1])
    figure = Figure(figsize=(8, 0.8 + 0.5 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for place, (_, plain, fastest, plain_name, name) in enumerate(rows):
        axes.barh(place - 0.2, plain, 0.38, color=PLAIN, label=None if place else "the plain way in torch")
        axes.barh(place + 0.2, fastest, 0.38, color=FASTEST, label=None if place else "the fastest other way")
        axes.text(plain + 0.1, place - 0.2, f"{plain:.1f}x  {plain_name}", va="center", fontsize=8)
        axes.text(fastest + 0.1, place + 0.2, f"{fastest:.1f}x  {name}", va="center", fontsize=8)
    axes.axvline(1, color=OURS, linewidth=2, label="ddfast")
    axes.set_yticks(range(len(rows)), [row[0] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.2 * max(row[1] for row in rows))
    machine = contents[0]["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores"
    axes.set_xlabel(f"time over ddfast's (longer: ddfast is faster), {where}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _ratios(group: str, plain: str, contents: list[dict[str, Any]]) -> tuple[float, float, str, str] | None:
    records = [each for content in contents for each in content["records"] if each["group"] == group]
    ours = next((each for each in records if each["baseline"] is None), None)
    if ours is None:
        return None
    others = {each["name"]: ratio(each, ours) for each in records if each["baseline"]}
    fastest = min(others, key=others.__getitem__)
    return others[plain], others[fastest], plain, fastest


if __name__ == "__main__":
    sys.exit(main())
