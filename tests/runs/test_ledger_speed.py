"""The ledger's price, beside plain files in the same process: seconds would judge the machine's file system."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.runs import ledger_cases
from ddfast.runs.lookout import Lookout
from ddfast.runs.show import describe_overview


def cpu_seconds(work: Callable[[int], object]) -> float:
    """The best of three, each told its number."""
    best = math.inf
    for number in range(3):
        begin = time.process_time()
        work(number)
        best = min(best, time.process_time() - begin)
    return best


def read_records(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".json"):
                json.loads(Path(entry.path).read_bytes())


def test_ten_thousand_tasks_are_listed_for_the_price_of_reading_their_records(tmp_path: Path) -> None:
    """1.05 times when quiet."""
    root = ledger_cases.half_done_run(tmp_path / "run", 10_000, links=True)
    listing = cpu_seconds(lambda _: describe_overview(Lookout(root).look(), tasks=True))
    assert listing < 3 * cpu_seconds(lambda _: read_records(root / "tasks"))
    overview = Lookout(root).look()
    assert "9000/10000 tasks done (90 %), 1 failed, 999 waiting" in describe_overview(overview, tasks=True)
    assert len(overview.workers()) == 10


def test_a_task_costs_a_few_plain_files(tmp_path: Path) -> None:
    """5 times one result file written safely when quiet (0.7 ms)."""
    done: list[int] = []
    task = cpu_seconds(lambda number: done.append(ledger_cases.run_empty_tasks(tmp_path / f"run{number}", 40)))
    assert done == [40, 40, 40]
    assert task < 15 * cpu_seconds(lambda number: ledger_cases.write_plain(tmp_path / f"plain{number}", 40))
