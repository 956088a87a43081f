"""What the ledger costs: a run of tasks that compute nothing, and a look at a run of 10,000 tasks; one core.

taskset -c 0 pytest benchmarks/runs/bench_ledger.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.records import Labels
from benchmarks.runs import ledger_cases
from ddfast.bench.floor import Work
from ddfast.bench.measured import Check
from ddfast.runs.lookout import Lookout
from ddfast.runs.show import describe_overview

TASKS = {"smoke": 50, "medium": 1000, "full": 1000}
LISTED = {"smoke": 500, "medium": 10_000, "full": 10_000}


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[], Path]:
    """A new folder each time; the one before is removed."""
    made: list[Path] = []

    def make() -> Path:
        while made:
            shutil.rmtree(made.pop())
        made.append(tmp_path / "run")
        return made[-1]

    return make


@pytest.mark.parametrize("name", ["ledger", "plain files"])
def test_tasks(case: Any, bench_size: str, fresh: Callable[[], Path], report_line: Any, name: str) -> None:
    count = TASKS[bench_size]
    run = ledger_cases.run_empty_tasks if name == "ledger" else ledger_cases.write_plain
    record = case(
        lambda: run(fresh(), count),
        labels=Labels("ledger", name, "runs", f"{count} tasks that compute nothing", "bytes", name),
        work=Work(count, "task", bytes=2 * count * len(ledger_cases.RESULT)),
        check=lambda done: Check("tasks not done", count - done, 0),
        warmup=False,
        rounds=3,
    )
    if record is not None and name == "ledger":
        wall, cpu = (spread.median / count for spread in (record.timing.wall, record.timing.cpu))
        words = f"ledger: {1e3 * wall:.2f} ms a task ({1e3 * cpu:.2f} ms CPU), under 1 % for tasks"
        report_line(f"{words} of more than {100 * wall:.2f} s")


def test_listing(case: Any, bench_size: str, tmp_path: Path) -> None:
    count = LISTED[bench_size]
    root = ledger_cases.half_done_run(tmp_path / "run", count)
    case(
        lambda: describe_overview(Lookout(root).look(), tasks=True),
        labels=Labels("ledger listing", "status", "runs", f"{count} tasks, nine tenths done", "text", "python"),
        work=Work(count, "task", bytes=count * 300),
        check=lambda text: Check("tasks not listed", count - text.count("  class-") + text.count("d:\n  class-"), 0),
    )
