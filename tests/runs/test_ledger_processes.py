"""The ledger under real processes: races, killed workers, stalled workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger_worker as helper

from ddfast.runs import Ledger
from ddfast.runs import ledger as ledger_module

LONG = 600.0


class Crew:
    """Worker processes that are gone when the test ends."""

    def __init__(self, root: Path, count: int) -> None:
        self.root, self.count = root, count
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, behaviour: str, expiry: float = LONG) -> subprocess.Popen[str]:
        command = [sys.executable, helper.__file__, str(self.root), str(self.count), str(expiry), behaviour]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.processes.append(process)
        return process

    def ledger(self, **options: float | bool) -> Ledger:
        return Ledger.resume(self.root, helper.task_ids(self.count), helper.CONFIG, **options)  # type: ignore[arg-type]

    def check_results(self) -> None:
        for task in helper.task_ids(self.count):
            assert (self.root / task[-5:] / "data.bin").read_bytes() == helper.result(task)
            assert sorted(os.listdir(self.root / task[-5:])) == ["data.bin"]


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path / "run", 40)
    yield crew
    for process in crew.processes:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line.strip()


def outcome(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return [line for line in out.splitlines() if line != "ready"]


def test_racing_workers_do_each_task_once_and_all_end_together(crew: Crew) -> None:
    workers = [crew.start("work") for _ in range(4)]
    lines = [line for worker in workers for line in outcome(worker)]
    assert sorted(lines) == [f"{task} 0" for task in helper.task_ids(crew.count)]
    crew.check_results()
    assert sorted(os.listdir(crew.root))[-2:] == ["records.json", "run.json"]
    assert not (crew.root / "tasks").exists()


def test_racing_for_dead_leases_has_one_winner_each(crew: Crew) -> None:
    """Every task is left by a killed worker; four live ones race to take each over."""
    crew.count = 6
    dead = [crew.start("hang") for _ in range(crew.count)]
    assert sorted(first_line(worker).split()[0] for worker in dead) == helper.task_ids(crew.count)
    for worker in dead:
        worker.kill()  # not waited for: a killed process that its parent has not asked after must count as gone, too
    workers = [crew.start("work") for _ in range(4)]
    lines = [line for worker in workers for line in outcome(worker)]
    assert sorted(lines) == [f"{task} 1" for task in helper.task_ids(crew.count)]
    crew.check_results()


def test_killed_worker_is_seen_at_once_and_its_task_redone(crew: Crew) -> None:
    worker = crew.start("hang")
    task = first_line(worker).split()[0]
    with crew.ledger(expiry=LONG) as ledger:
        assert ledger.status().running == 1
        claimed = ledger.claim_next()
        assert claimed is not None
        assert claimed.id != task
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        assert ledger.status().running == 1  # ours only
        taken = ledger.claim_next()
        assert taken is not None
        assert (taken.id, taken.attempt) == (task, 1)
    outcome(crew.start("work"))
    crew.check_results()  # also: the temporary left by the killed worker is swept


def test_worker_that_dies_between_files_and_record_leaves_nothing_wrong(crew: Crew) -> None:
    worker = crew.start("half")
    task = first_line(worker).split()[0]
    assert worker.wait(timeout=30) == 9
    assert (crew.root / "00000/data.bin").read_bytes() == b"unfinished"
    with crew.ledger() as ledger:
        assert not ledger.completed(task)
    outcome(crew.start("work"))
    crew.check_results()


def test_stalled_heartbeat_expires_while_a_beating_one_does_not(crew: Crew) -> None:
    crew.count = 2
    beating = crew.start("hang", expiry=0.6)
    first_line(beating)
    stalled = crew.start("stall", expiry=0.6)
    lost = first_line(stalled).split()[0]
    with crew.ledger(expiry=0.6) as ledger:
        taken = None
        limit = time.monotonic() + 20
        while taken is None and time.monotonic() < limit:
            taken = ledger.claim_next()
            time.sleep(0.02)
        assert taken is not None
        assert (taken.id, taken.attempt) == (lost, 1)
        watch = time.monotonic() + 1.5
        while time.monotonic() < watch:
            assert ledger.claim_next() is None
            time.sleep(0.05)


def test_interrupted_worker_gives_its_task_back(crew: Crew) -> None:
    crew.count = 1
    script = (
        "import signal, sys, time; sys.argv = ['x', sys.argv[1], '1', '600', 'work'];"
        f"sys.path.insert(0, {str(Path(helper.__file__).parent)!r}); import ledger_worker as w;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background job ignores it
        "w.result = lambda task: (print('claimed', flush=True), time.sleep(600)); w.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(crew.root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    crew.processes.append(process)
    assert first_line(process) == "ready"
    assert first_line(process) == "claimed"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in err
    lease = crew.root / "tasks" / "class-00000.lease-0"
    assert lease.stat().st_mtime_ns == 0
    outcome(crew.start("work"))
    crew.check_results()


def test_workers_need_neither_torch_nor_pillow() -> None:
    code = "import sys, ddfast.runs; print([m for m in ('torch', 'PIL', 'tqdm', 'torchvision') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=helper.ROOT, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_finishing_while_another_worker_sweeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Ledger.resume(tmp_path / "run", ["a"], {}) for _ in range(2))
    with first.claim("a") as task:
        task.write_bytes("a.bin", b"a")  # beside the ledger's own files, whose folder is swept
        task.complete()
    write = ledger_module.atomic_write_bytes

    def overtaken(path: Path, content: bytes) -> None:
        monkeypatch.setattr(ledger_module, "atomic_write_bytes", write)
        second.finish()
        raise FileNotFoundError(path)

    monkeypatch.setattr(ledger_module, "atomic_write_bytes", overtaken)
    first.finish()
    assert first.finished()
    assert not (tmp_path / "run" / "tasks").exists()
