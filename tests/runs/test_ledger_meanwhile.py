"""What others do meanwhile: faults of the file server, results that come late, waiting for any task."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ddfast.runs import Ledger
from ddfast.runs import task as task_module
from ddfast.runs.lease import LeaseBook

TASKS = ["class-00000"]
CONFIG = {"seed": 1}


def test_a_passing_fault_of_the_file_server_does_not_end_the_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, stat = LeaseBook(tmp_path, expiry=0.3), os.stat
    book.claim("t")
    faults = threading.Event()

    def faulty(path: Any, *given: Any, **named: Any) -> os.stat_result:
        if str(path).endswith("t.lease-1") and not faults.is_set():
            faults.set()
            raise OSError(errno.EIO, "Input/output error")
        return stat(path, *given, **named)

    monkeypatch.setattr(os, "stat", faulty)
    assert faults.wait(20)
    lease = book.path("t", 0)
    os.utime(lease, (1, 1))
    limit = time.monotonic() + 20
    while stat(lease).st_mtime == 1 and time.monotonic() < limit:
        time.sleep(0.02)
    assert stat(lease).st_mtime > 1
    book.close()


def test_a_late_result_does_not_bring_back_the_state_of_a_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    late, newer = (Ledger.resume(root, TASKS, CONFIG) for _ in range(2))
    held = late.claim(TASKS[0])
    held.write_bytes("00000/a.bin", b"a")
    publish = task_module.publish

    def overtaken(pairs: Any) -> None:
        """The newer worker does all the rest between the late one's files and its done record."""
        monkeypatch.setattr(task_module, "publish", publish)
        publish(pairs)
        os.utime(root / "tasks/class-00000.lease-0", (0, 0))
        with newer.claim(TASKS[0]) as task:
            task.write_bytes("00000/a.bin", b"a")
            task.complete()
        newer.finish()

    monkeypatch.setattr(task_module, "publish", overtaken)
    assert not held.complete()
    assert sorted(os.listdir(root)) == ["00000", "records.json", "run.json"]
    late.close()
    newer.close()


def test_who_waits_for_any_task_says_for_which(tmp_path: Path) -> None:
    first, second = (Ledger.resume(tmp_path / "run", TASKS, CONFIG) for _ in range(2))
    held, said = first.claim(TASKS[0]), []

    def tell(line: str) -> None:
        said.append(line)
        held.complete()

    assert not list(second.claims(poll=0.05, on_wait=tell))
    assert len(said) == 1
    assert f"waiting for task class-00000, held by process {os.getpid()}" in said[0]
    first.close()
    second.close()
