"""A worker for the ledger's tests, run as a process of its own: ``ledger_worker.py ROOT COUNT EXPIRY BEHAVIOUR``.

Behaviours: ``work`` takes tasks until the run is finished; ``hang`` claims one task, says so, and sleeps; ``stall``
does so with a heartbeat that stands still; ``half`` publishes a task's files but dies before its done record.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from ddfast.runs import atomic, seeds  # noqa: E402
from ddfast.runs.ledger import Ledger  # noqa: E402

CONFIG = {"seed": 3, "method": "test"}


def task_ids(count: int) -> list[str]:
    return [f"class-{index:05d}" for index in range(count)]


def result(task: str) -> bytes:
    """What a task computes: a pure function of its id."""
    label = int(task.rpartition("-")[2])
    return seeds.counter_words(3, "result", label, range(64), words=4).tobytes()


def work(ledger: Ledger) -> None:
    print("ready", flush=True)
    for task in ledger.claims(poll=0.02):
        with task:
            label = int(task.id.rpartition("-")[2])
            task.write_bytes(f"{label:05d}/data.bin", result(task.id))
            task.complete({"label": label})
            print(task.id, task.attempt, flush=True)


def main() -> None:
    root, count, expiry, behaviour = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    ledger = Ledger.resume(root, task_ids(count), CONFIG, expiry=expiry)
    if behaviour == "work":
        with ledger:
            work(ledger)
            ledger.finish()
        return
    if behaviour == "stall":
        ledger._book.beat = lambda: None  # type: ignore[method-assign]
    task = ledger.claim_next()
    assert task is not None
    task.write_bytes("00000/data.bin", b"unfinished")
    print(task.id, os.getpid(), flush=True)
    if behaviour == "half":
        for temporary, _ in task._staged.values():
            atomic.publish([(temporary, Path(root) / "00000/data.bin")])
        os._exit(9)
    time.sleep(600)


if __name__ == "__main__":
    main()
