"""Several workers of one run, each a process with one thread, timed from when all of them are at work.

The processes are forked from a server that has imported what they need and computed nothing. What each has to do before
its first piece of work (compiling, calibration) is not in the times: all wait for each other after it.
"""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Job = Callable[[Path, "str | None", Callable[[int], None], Any], None]
"""A worker's part: the folder, ``"i/n"`` or None for one alone, what to call with the pieces done so far, and more."""
_PATIENCE = 300.0
_SLOW = ("torch._dynamo", "torch.export._trace")  # what optimisers and the capture of a network import later on


@dataclass(frozen=True)
class Worked:
    """Pieces done after all workers had begun, wall seconds until the last ended, CPU seconds of all."""

    pieces: int
    wall: float
    cpu: float

    @property
    def rate(self) -> float:
        """Pieces a second of wall time."""
        return self.pieces / self.wall

    @property
    def cpu_each(self) -> float:
        """CPU seconds a piece."""
        return self.cpu / self.pieces


def timed_workers(job: Job, count: int, out: Path, given: Any, pieces: int, preload: Sequence[str] = ()) -> Worked:
    """``count`` workers do a job together.

    Args:
        job: a module's function.
        count: how many.
        out: the run's folder.
        given: more for the job.
        pieces: of the whole run.
        preload: modules that the job needs.

    Raises:
        RuntimeError: a worker failed, or had nothing to do.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_SLOW, __name__, *preload])
    meeting, times = context.Barrier(count), context.Array("d", 4 * count)
    workers = [
        context.Process(target=_work, args=(job, index, count, out, given, meeting, times)) for index in range(count)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise RuntimeError(f"exit codes {[worker.exitcode for worker in workers]}, expected 0")
    begun, ended, cpu, before = ([times[4 * index + place] for index in range(count)] for place in range(4))
    if min(begun) == 0.0:
        raise RuntimeError("a worker did nothing; give the run more tasks")
    return Worked(pieces - round(sum(before)), max(ended) - max(begun), sum(cpu))


def _work(job: Job, index: int, count: int, out: Path, given: Any, meeting: Any, times: Any) -> None:
    torch.set_num_threads(1)
    spent = 0.0

    def progress(done: int) -> None:
        nonlocal spent
        if times[4 * index] == 0.0:
            with suppress(threading.BrokenBarrierError):
                meeting.wait(_PATIENCE)
                times[4 * index], times[4 * index + 3], spent = time.monotonic(), done, time.process_time()

    job(out, f"{index}/{count}" if count > 1 else None, progress, given)
    times[4 * index + 1], times[4 * index + 2] = time.monotonic(), time.process_time() - spent
