"""The simulation of many workers: cases worked out by hand, and its rules against those of the ledger itself."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scale_simulation
from benchmarks.scale_simulation import Scenario, Simulation
from ddfast.runs import lease
from ddfast.runs.lease import LeaseBook

NEVER = float("inf")
# Worker 0 does tasks 0 and 2, worker 1 does 1 and dies 5 s into task 3, whose lease it had taken at 10.
LOST = Scenario((10.0, 10.0, 10.0, 10.0), 2, deaths=(NEVER, 15.0))


def test_no_losses_by_hand() -> None:
    run = Simulation(Scenario((10.0, 20.0, 30.0), 2, claim=0.5)).run()
    # worker 0: 0 to 10.5 and task 2 to 41; worker 1 until 20.5, and then it looks in vain until 41.5
    assert (run.finished, run.paid, run.useful, run.ledger, run.lost) == (41.0, 41.0 + 41.5, 60.0, 1.5, 0)
    assert run.waiting == pytest.approx(21.0)


def test_a_lost_worker_by_hand() -> None:
    run = Simulation(LOST).run()
    # worker 0 first sees the lease at 20; its polls at 21, 22 ... find it silent for more than 180 s at 201
    assert (run.finished, run.paid, run.thrown_away, run.waiting, run.redone) == (211.0, 226.0, 5.0, 181.0, 1)
    assert run.waste == pytest.approx(1 - 40 / 226)


def test_a_process_lost_on_the_same_machine_is_seen_at_once() -> None:
    run = Simulation(replace(LOST, per_machine=2)).run()
    assert (run.finished, run.paid, run.waiting) == (30.0, 45.0, 0.0)


def test_a_lease_seen_between_two_tasks_by_hand() -> None:
    run = Simulation(Scenario((10.0, 100.0, 300.0, 10.0), 2, deaths=(NEVER, 50.0))).run()
    # seen at 310 on the way to task 3, over after 490; polls since 320
    assert (run.finished, run.paid, run.thrown_away) == (591.0, 641.0, 50.0)


def test_a_replacement_by_hand() -> None:
    run = Simulation(replace(LOST, deaths=(17.0, 15.0), replace_after=1000.0)).run()
    # the new worker 1 comes at 1015, sees task 3 (last beat at 10) first, then does task 2 (last beat at 10, seen
    # at 1017 by the new worker 0); both are older than 180 + 900 s after 1090
    assert (run.lost, run.redone, run.finished) == (2, 2, 1101.0)


def test_all_lost() -> None:
    with pytest.raises(RuntimeError, match="all 2 workers were lost with 4 tasks"):
        Simulation(replace(LOST, deaths=(5.0, 5.0))).run()


@pytest.mark.parametrize("seed", range(4))
def test_the_rule_is_the_ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """A lease whose heartbeats ended at ``beat``, looked at at random times: taken over at the same look."""
    random = np.random.default_rng(seed)
    beat = 100.0
    looks = np.cumsum([random.uniform(0, 1500), *random.uniform(1, 120, 40)]) + beat
    simulation = Simulation(Scenario((1.0,), 2))
    simulation._hire(0, 0.0, NEVER)
    simulation.dead[0] = (beat, 1)
    expected = [simulation._over(simulation.crew[0], 0, now) for now in looks]

    (tmp_path / "t.lease-0").write_text(json.dumps(LeaseBook(tmp_path).owner.__dict__ | {"machine": "elsewhere"}))
    os.utime(tmp_path / "t.lease-0", (beat, beat))
    book = LeaseBook(tmp_path)
    found = []
    for now in looks:
        monkeypatch.setattr(lease.time, "time", lambda now=now: now)
        monkeypatch.setattr(lease.time, "monotonic", lambda now=now: now)
        found.append(book._over("t", 0))
    assert found == expected
    assert True in found


def test_accounts_add_up_and_depend_on_the_seed_alone() -> None:
    scenario = Scenario(scale_simulation.tasks(400, 60.0, 0.3, 0), 20, 0.5, seed=3, replace_after=100.0, claim=0.1)
    runs = [Simulation(scenario).run() for _ in range(2)]
    assert runs[0] == runs[1]
    assert runs[0] != Simulation(replace(scenario, seed=4)).run()
    assert runs[0].lost > 0
    assert runs[0].waiting > 0
    assert runs[0].ledger == pytest.approx(40.0)
    assert runs[0].paid > runs[0].useful == pytest.approx(400 * 60.0, rel=0.05)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--workers=20", "--classes=200", "--seconds=600", "--runs=2", "--lost-per-hour=0.05"]
    scale_simulation.main([*given, "--json", str(tmp_path / "means.json")])
    text = capsys.readouterr().out
    assert text.startswith("200 tasks, 20 workers, 5.0% lost an hour, expiry 180 s, mean of 2 runs")
    assert len(re.findall(r"wasted by losses -?\d+\.\d\d%, in all \d+\.\d\d%", text)) == 2
    document = json.loads((tmp_path / "means.json").read_text())
    assert [row["per_machine"] for row in document["rows"]] == [1, 8]
    row = document["rows"][0]
    assert f"in all {row['waste']:.2%}" in text
    assert document["settings"]["classes"] == 200
