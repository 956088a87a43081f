"""Workers that stand still, race, have other clocks, or hear of each other late.

More of these: test_ledger.py (generations, clocks of a lease), test_ledger_processes.py (races for tasks and for those
of dead workers, a heartbeat that stands still), test_workers_matching.py (whole methods).
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from ddfast.runs import Ledger
from ddfast.runs.lease import LeaseBook
from tests.runs.failure_hosts import TASKS, Hosts, check, note, result, work

EXPIRY = 1.5


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    crew = Hosts(tmp_path)
    yield crew
    crew.end()


def until(path: Path, seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < limit, f"no {path.name}"
        time.sleep(0.01)


def hold(root: Path, folder: Path) -> None:
    """Takes the first task, waits for a file, and completes."""
    with Ledger.resume(root, TASKS, {}, expiry=EXPIRY) as ledger, ledger.claim(TASKS[0]) as task:
        task.write_bytes("00000/data.bin", b"of the worker that stood still")
        (folder / "held").touch()
        until(folder / "go")
        time.sleep(2 * EXPIRY / 6)  # a heartbeat, which sees what happened meanwhile
        lost = task.lost
        note(folder / "woken", f"{int(lost)} {int(task.complete({'place': 0}))}")


@pytest.mark.parametrize("finished", [False, True], ids=["the run goes on", "the run is over"])
def test_a_stopped_worker_loses_its_task_and_its_late_result_is_dropped(
    tmp_path: Path,
    hosts: Hosts,
    finished: bool,
) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    stopped = hosts.start("first", hold, root, tmp_path)
    until(tmp_path / "held")
    os.kill(stopped, signal.SIGSTOP)
    begin = time.monotonic()
    if finished:
        work(root, log, EXPIRY, [0.0])
    else:
        with Ledger.resume(root, TASKS, {}, expiry=EXPIRY) as ledger:
            task = ledger.claim_or_wait(TASKS[0], poll=0.02)
            assert task is not None
            with task:
                task.write_bytes("00000/data.bin", result(task.id))
                task.complete({"place": 0})
                note(log, f"{task.id} {task.attempt} 1")
    assert EXPIRY <= time.monotonic() - begin < 20  # a few expiries, on a machine that has other work
    (tmp_path / "go").touch()
    os.kill(stopped, signal.SIGCONT)
    hosts.wait()
    assert (tmp_path / "woken").read_text() == "1 0\n"
    work(root, log, EXPIRY, [0.0])
    assert sorted(log.read_text().splitlines())[0] == f"{TASKS[0]} 1 1"
    assert len(log.read_text().splitlines()) == len(TASKS)  # each once
    check(root)


def contend(folder: Path, log: Path, wins: int, seed: int) -> None:
    """Takes and gives back one lease again and again until it was held ``wins`` times by whomever."""
    book, rng = LeaseBook(folder, expiry=600.0), random.Random(seed)
    while (generation := book.claim("t")) is None or generation < wins:
        if generation is None:
            continue
        begin = time.monotonic_ns()
        time.sleep(rng.uniform(0, 0.002))
        note(log, f"{generation} {begin} {time.monotonic_ns()}")
        book.release("t")
    book.close()


def test_one_lease_has_one_holder_at_a_time_over_many_generations(tmp_path: Path, hosts: Hosts) -> None:
    (tmp_path / "leases").mkdir()
    log, wins = tmp_path / "log", 60
    for number in range(8):
        hosts.start(f"host {number}", contend, tmp_path / "leases", log, wins, number)
    hosts.wait()
    held = sorted(tuple(map(int, line.split())) for line in log.read_text().splitlines())
    assert [generation for generation, _, _ in held] == list(range(wins))
    assert all(end <= begin for (_, _, end), (_, begin, _) in pairwise(held))


@pytest.mark.parametrize("skew", [600.0, -600.0])
def test_clocks_of_hosts_that_differ_cost_nothing(tmp_path: Path, hosts: Hosts, skew: float) -> None:
    """Some tasks take longer than a lease without heartbeats lives, and nobody takes them over."""
    root, log = tmp_path / "run", tmp_path / "log"
    for number, ahead in enumerate((0.0, skew, -skew / 2)):
        hosts.start(
            f"host {number}", work, root, log, EXPIRY, [0.01, 0.01, 0.01, 2 * EXPIRY, *[0.01] * 20], ahead=ahead
        )
    hosts.wait()
    assert sorted(log.read_text().splitlines()) == [f"{task} 0 1" for task in TASKS]
    check(root)


def test_a_clock_that_is_hours_off_costs_a_task_done_twice_at_most(tmp_path: Path, hosts: Hosts) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    for number, ahead in enumerate((0.0, 7200.0)):
        hosts.start(f"host {number}", work, root, log, EXPIRY, [0.01], ahead=ahead)
    hosts.wait()
    stands = [line.split()[0] for line in log.read_text().splitlines() if line.endswith(" 1")]
    assert set(stands) == set(TASKS)
    check(root)


def test_a_file_system_that_tells_late_costs_time_and_no_results(tmp_path: Path, hosts: Hosts) -> None:
    """Attributes are cached for a third of the expiry, as in the defaults: a minute of three."""
    root, log = tmp_path / "run", tmp_path / "log"
    for number in range(3):
        hosts.start(f"host {number}", work, root, log, 3 * EXPIRY, [4 * EXPIRY, *[0.02] * 23], cached=EXPIRY)
    hosts.wait()
    done = [line.split() for line in log.read_text().splitlines()]
    assert {task for task, _, _ in done} == set(TASKS)
    assert all(attempt == "0" for _, attempt, _ in done)  # nobody was taken for dead
    check(root)


def test_a_dead_host_behind_such_a_file_system_is_replaced(tmp_path: Path, hosts: Hosts) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    dead = hosts.start("dead", hold, root, tmp_path, cached=EXPIRY / 3)
    until(tmp_path / "held")
    os.kill(dead, signal.SIGKILL)
    os.waitpid(hosts.children.pop(), 0)
    for number in range(2):
        hosts.start(f"host {number}", work, root, log, EXPIRY, [0.01], cached=EXPIRY / 3)
    hosts.wait()
    assert f"{TASKS[0]} 1 1" in log.read_text().splitlines()
    assert len({line.split()[0] for line in log.read_text().splitlines()}) == len(TASKS)
    check(root)
