"""The ledger's price, in CPU seconds so that other work on the machine does not count; bounds are generous."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.runs import ledger_cases
from ddfast.runs.lookout import Lookout
from ddfast.runs.show import describe_overview


def test_ten_thousand_tasks_are_listed_in_a_second(tmp_path: Path) -> None:
    root = ledger_cases.half_done_run(tmp_path / "run", 10_000, links=True)
    begin = time.process_time()
    overview = Lookout(root).look()
    text = describe_overview(overview, tasks=True)
    assert time.process_time() - begin < 1.0
    assert "9000/10000 tasks done (90 %), 1 failed, 999 waiting" in text
    assert len(overview.workers()) == 10


def test_a_task_of_a_second_pays_less_than_a_hundredth(tmp_path: Path) -> None:
    begin = time.process_time()
    assert ledger_cases.run_empty_tasks(tmp_path / "run", 40) == 40
    assert (time.process_time() - begin) / 40 < 0.01
