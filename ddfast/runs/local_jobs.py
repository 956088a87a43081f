"""Jobs on this machine: a device for each, what became of them, and stopping them."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

_DEVICE = re.compile(r"\d+|GPU-.+|MIG-.+")
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_TAIL = 1 << 14  # bytes of a log that are looked at
_LINES = 10  # of a log that are shown
_LOOK = 0.25  # seconds


def visible_devices(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The CUDA devices that a process started here would see, as CUDA_VISIBLE_DEVICES names them."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        import torch

        return tuple(str(number) for number in range(torch.cuda.device_count()))
    # CUDA takes those before the first that is none
    return tuple(takewhile(_DEVICE.fullmatch, (name.strip() for name in given.split(","))))


def share_devices(devices: Sequence[str], jobs: int, tasks: int, each: int = 1) -> list[tuple[str, ...]]:
    """CUDA_VISIBLE_DEVICES for every task of every job: ``each`` devices a task, in turns.

    Raises:
        ValueError: a task is to have more than there are.
    """
    if not devices:
        return [()] * jobs
    if each > len(devices):
        raise ValueError(f"launch options: gpus_per_node: got {each}, but {len(devices)} CUDA devices are visible here")
    turns = [",".join(devices[(task * each + k) % len(devices)] for k in range(each)) for task in range(jobs * tasks)]
    return [tuple(turns[job * tasks : (job + 1) * tasks]) for job in range(jobs)]


@contextmanager
def shielded() -> Iterator[None]:
    """Processes started inside ignore the Ctrl-C that a terminal sends to them too: it is for `stop` to end them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.SIG_DFL)


def wait(jobs: Sequence[Any]) -> list[str]:
    """Wait until all jobs have ended; what is to be said of those that failed, the same words once.

    Args:
        jobs: submitit's, each of a `ddfast.runs.jobs.LocalCommand`.
    """
    while not all(job.done() for job in jobs):
        time.sleep(_LOOK)
    failed: dict[tuple[str, str], list[Any]] = {}
    for job in jobs:
        for task in range(job.num_tasks):
            one = job.task(task)
            if (how := _ended(one)) is not None:
                failed.setdefault((how, _last_words(one.paths.stderr)), []).append(one)
    return [
        f"{'job' if len(such) == 1 else 'jobs'} {', '.join(each.job_id for each in such)} {how}; log: "
        f"{such[0].paths.stderr}{words and f', which ends with:{words}'}"
        for (how, words), such in failed.items()
    ]


def stop(jobs: Sequence[Any], seconds: float) -> int:
    """End jobs, whose commands give their tasks back; returns how many have not ended within ``seconds``."""
    limit = time.monotonic() + seconds
    while left := [job for job in jobs if not job.done()]:
        if time.monotonic() > limit:
            break
        for job in left:
            # again and again: one that is just starting does not listen yet; the others pass on the first alone
            os.kill(int(job.job_id), signal.SIGTERM)
        time.sleep(_LOOK)
    return len(left)


def _ended(task: Any) -> str | None:
    """How a task failed; None if it did not."""
    from submitit.core.utils import UncompletedJobError

    try:
        if task.exception() is None:
            code = int(task.result())
            return None if code == 0 else f"ended with code {code}" if code > 0 else f"ended by {_signal(-code)}"
    except UncompletedJobError:
        pass
    return "ended without a result"


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(log: Path) -> str:
    """The error that a log ends with, else its last lines; each on a line of its own, indented."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
            text = file.read().decode(errors="backslashreplace")
    except OSError:
        return ""
    lines = [line for line in _COLOUR.sub("", text).splitlines() if line.strip() and not line.startswith("submitit ")]
    error = max((place for place, line in enumerate(lines) if "ddfast: error:" in line), default=len(lines) - _LINES)
    return "".join(f"\n  {line}" for line in lines[max(error, 0) :][:_LINES])
