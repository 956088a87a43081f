"""The table of whole runs: what a run of ddfast took beside the published program's steps, from result files alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

SUITE = "rded"
PLAIN = "transcription"
Content = dict[str, Any]


def run_table(contents: Sequence[Content]) -> str:
    """Markdown for each machine: a row for each whole run of ddfast that has one of the transcription beside it."""
    made = [_machine(content) for content in contents if content["suite"] == SUITE]
    return "\n\n".join(made) or "No whole run is committed yet."


def _machine(content: Content) -> str:
    machine, versions = content["machine"], content["versions"]
    place = machine["gpu"]["name"] if machine["gpu"] else f"{machine['cpu']}, {machine['cores']} cores"
    head = ("whole run", "transcription", "ddfast", "", "crops scored again", "patches")
    lines = [f"| {' | '.join(row)} |" for row in (head, *_rows(content))]
    heading = f"**{place}** (torch {versions['torch']}, commit {content['commit']}, size {content['size']})"
    return "\n".join([heading, "", lines[0], "|" + " --- |" * len(head), *lines[1:]])


def _rows(content: Content) -> Iterator[tuple[str, ...]]:
    from benchmarks.report import groups

    for group, records in groups(content).items():
        plain = next((each for each in records if each["name"] == PLAIN), None)
        for each in records:
            if plain is not None and each["baseline"] is None:
                yield (
                    f"{group}, {each['dtype']}", f"{plain['seconds']:.0f} s", f"{each['seconds']:.0f} s",
                    f"**{plain['seconds'] / each['seconds']:.1f}x**", _again(each), _same(each),
                )  # fmt: skip


def _again(record: Content) -> str:
    """The share of crops that were scored again more precisely."""
    counts = [int(value) for name, value in record["notes"].items() if name.startswith("crops_scored_again")]
    found = re.search(r"(\d+) crops", record["shape"])
    if not counts or found is None:
        return ""
    return f"{100 * max(counts) / (record['items'] * int(found[1])):.1f} %"


def _same(record: Content) -> str:
    wrong = record["correctness"]["error"]
    return "the same" if wrong == 0 else f"{wrong:g} others"
