"""Runs of many small tasks: through the ledger, and as a finished state that is only looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ddfast.runs import Ledger, atomic_write_bytes

CONFIG = {"method": "rded", "seed": 0}
RESULT = bytes(1000)


def task_ids(count: int) -> list[str]:
    """As RDED names its classes."""
    return [f"class-{index:05d}" for index in range(count)]


def run_empty_tasks(root: Path, count: int) -> int:
    """A run whose tasks compute nothing: all its time is the ledger's. Returns how many are done."""
    with Ledger.create(root, task_ids(count), CONFIG) as ledger:
        for number, task in enumerate(ledger.claims()):
            with task:
                task.write_bytes(f"{number:05d}/result.bin", RESULT)
                task.complete({"label": number})
        ledger.finish()
        return ledger.status().done


def write_plain(root: Path, count: int) -> int:
    """The same result files, as safe against a power cut, without a ledger."""
    for number in range(count):
        atomic_write_bytes(root / f"{number:05d}" / "result.bin", RESULT)
    return count


def half_done_run(root: Path, count: int, *, links: bool = False) -> Path:
    """A run with nine tenths of its tasks done by ten workers, one failed; the files as the ledger writes them.

    ``links`` gives each worker's records one content, through hard links, which are made faster.
    """
    names = task_ids(count)
    Ledger.create(root, names, CONFIG).close()
    for number, name in enumerate(names[: count * 9 // 10]):
        path = root / "tasks" / f"{name}.done.json"
        if links and number >= 10:
            os.link(root / "tasks" / f"{names[number % 10]}.done.json", path)
        else:
            path.write_text(json.dumps(_done(name, number)))
    failure = {
        "task": names[-1], "attempt": 0, "error": "ValueError: no", "where": "", "owner": "", "when": 0, "seconds": 1,
    }  # fmt: skip
    (root / "tasks" / f"{names[-1]}.failed-0.json").write_text(json.dumps(failure))
    return root


def _done(name: str, number: int) -> dict[str, Any]:
    return {
        "task": name, "files": {f"{number:05d}/a.jpg": {"bytes": 1000, "sha256": "0" * 64}}, "record": {},
        "owner": f"node{number % 10}:17:abcdef", "seconds": 12.5, "attempt": 0,
    }  # fmt: skip
