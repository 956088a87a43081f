"""Tables of README and docs, and figures, from the result files: ``python -m benchmarks.report [--check]``.

What stands between two comment markers is rebuilt from ``benchmarks/results/*/*.json``: whole runs and all jobs in
``docs/speed.md``, whole runs and the ops in ``README.md``. With ``--check`` nothing is written, and the exit code is 1
when a page differs. Figures go to ``benchmarks/results/<machine>/figures``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.ops_table import ops_table
from benchmarks.records import RESULTS, load_all
from benchmarks.run_table import run_table

PAGES = tuple(RESULTS.parents[1] / name for name in ("docs/speed.md", "README.md"))
BEGIN = "<!-- {}: made by python -m benchmarks.report -->"
END = "<!-- end of {} -->"
SUITES = ("multi_crop", "mosaic", "augment_batch", "crop_score", "class_topk", "input", "forward", "rded")
LIBRARIES = ("torch", "torchvision", "openvino", "simplejpeg", "pillow", "cykooz-resizer", "nvidia-dali-cuda130")
_TOLD = 1000.0
Content = dict[str, Any]


def tables(contents: Sequence[Content]) -> str:
    """Markdown for all machines."""
    if not contents:
        return "No result file is committed yet."
    machines: dict[str, list[Content]] = {}
    for content in contents:
        machines.setdefault(content["machine"]["slug"], []).append(content)
    return "\n\n".join(_machine(sorted(found, key=_order)) for found in machines.values())


def _order(content: Content) -> tuple[int, str]:
    suite = content["suite"]
    return (SUITES.index(suite) if suite in SUITES else len(SUITES), suite)


def _machine(contents: Sequence[Content]) -> str:
    rows = [row for content in contents for row in _rows(content)]
    return "\n".join(
        (
            _heading(contents),
            "",
            "| job | ddfast | x of the limit | time of the others over ddfast's |",
            "| --- | --- | --- | --- |",
            *rows,
        )
    )


def _heading(contents: Sequence[Content]) -> str:
    first = contents[-1]
    machine, versions = first["machine"], first["versions"]
    cores = "1 core" if machine["cores"] == 1 else f"{machine['cores']} cores"
    parts = [f"{machine['cpu']}, {cores} ({', '.join(machine['isa'][:2])})"]
    if machine["gpu"]:
        parts.append(machine["gpu"]["name"])
    libraries = ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions)
    commits = ", ".join(sorted({content["commit"] for content in contents}))
    sizes = ", ".join(sorted({content["size"] for content in contents}))
    return (
        f"**{'; '.join(parts)}** ({machine['os']}; malloc: {machine['malloc']}; {libraries}; commit {commits}; "
        f"size {sizes}; files and figures in `benchmarks/results/{machine['slug']}/`)"
    )


def _rows(content: Content) -> Iterator[str]:
    for records in groups(content).values():
        ours = next((record for record in records if record["baseline"] is None), None)
        if ours is None:
            continue
        others = [record for record in records if record is not ours]
        ratios = ", ".join(f"{_label(record)} {ratio(record, ours):.2f}x" for record in others)
        limit = ours["limit"]
        # where the limit is a thousandth of the time, what it counts is not what the job does
        told = limit and ours["x_of_limit"] < _TOLD
        bound = f"{ours['x_of_limit']:.2f} ({limit['binding']})" if told else ""
        yield f"| {ours['group']}: {ours['shape']} | {amount(ours)} | {bound} | {ratios} |"


def groups(content: Content) -> dict[str, list[Content]]:
    """Records by group, in the order they were measured."""
    found: dict[str, list[Content]] = {}
    for record in content["records"]:
        found.setdefault(record["group"], []).append(record)
    return found


def ratio(record: Content, ours: Content) -> float:
    """Seconds of ``record`` over ddfast's: measured in turns where they were, else of the medians."""
    together = record["over_ddfast"]
    return float(together["median"] if together else record["seconds"] / ours["seconds"])


def _label(record: Content) -> str:
    """Name; ddfast's other ways to do it are marked."""
    return str(record["name"]) if record["baseline"] else f"(ddfast {record['name'].removeprefix('ddfast-')})"


def amount(record: Content) -> str:
    """Time and rate of an item."""
    each = record["seconds"] / record["items"]
    rate = f"{record['gflop_per_s']:.3g} GFLOP/s" if record["gflop_per_s"] else f"{record['gb_per_s']:.3g} GB/s"
    return f"{_seconds(each)}/{record['unit']}, {rate}"


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value * 1e9:.3g} ns"


PARTS: dict[str, Callable[[Sequence[Content]], str]] = {"benchmarks": tables, "ops": ops_table, "runs": run_table}


def rebuilt(page: str, contents: Sequence[Content]) -> str:
    """The page with its generated parts made anew.

    Raises:
        ValueError: there are no markers, or not in pairs, once each and in order.
    """
    there = [name for name in PARTS if BEGIN.format(name) in page or END.format(name) in page]
    if not there:
        raise ValueError(f"page: got no markers, expected {' or '.join(BEGIN.format(name) for name in PARTS)}")
    for name in there:
        begin, end = BEGIN.format(name), END.format(name)
        if page.count(begin) != 1 or page.count(end) != 1 or page.index(begin) > page.index(end):
            raise ValueError(f"page: expected one {begin!r} and after it one {end!r}")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{PARTS[name](contents)}\n{end}{rest.split(end)[1]}"
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page differs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--pages", type=Path, nargs="+", default=PAGES, help="files with the markers")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    options = parser.parse_args(arguments)
    contents = load_all(options.results)
    differ = False
    for page in options.pages:
        old = page.read_text(encoding="utf-8")
        new = rebuilt(old, contents)
        differ |= new != old
        if not options.check:
            page.write_text(new, encoding="utf-8")
        elif new != old:
            print(f"{page} differs from the results: run python -m benchmarks.report")
    if options.check:
        return int(differ)
    if not options.no_figures:
        _figures(contents, options.results)
    return 0


def _figures(contents: Iterable[Content], folder: Path) -> None:
    if find_spec("matplotlib") is None:
        print("no figures: matplotlib is not installed (extra: plots)", file=sys.stderr)
        return
    from benchmarks import figures

    for content in contents:
        print(figures.draw(content, folder / content["machine"]["slug"] / "figures"))


if __name__ == "__main__":
    sys.exit(main())
