"""Kills a phase again and again at seeded moments, goes on with it each time, and compares what comes out.

All runs are forks of a process that has imported what they need, so that a kill costs what the phase takes and not the
seconds of its imports. That process itself computes nothing: autograd and OpenMP do not survive a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tqdm

from ddfast.runs import Preempted, preemptible
from tests.runs.failure_phases import PHASES, Phase

KILLS_A_TRIAL = 4
_PATIENCE = 120.0  # seconds for one attempt
_TOUCHING = {
    "open",
    "os.rename",
    "os.remove",
    "os.link",
    "os.mkdir",
    "os.rmdir",
    "os.utime",
    "os.listdir",
    "os.scandir",
}


@dataclass
class Tally:
    """What came of a phase's trials: kills by the clock and at file operations, and what went wrong."""

    phase: str
    by_clock: int = 0
    at_operations: int = 0
    trials: int = 0
    length: float = 0.0
    operations: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return self.by_clock + self.at_operations


def torment(name: str, folder: Path, kills: int, seed: int) -> Tally:
    """``kills`` kills of a phase in as many runs as they take, half by the clock and half at file operations.

    Args:
        name: of the phase.
        folder: for the runs.
        kills: how many processes are to be killed while they work.
        seed: of the moments.
    """
    tally, rng = Tally(name), random.Random(f"{seed} {name}")
    phase, whole, tally.length, tally.operations = prepare(name, folder)
    while tally.kills < kills and len(tally.faults) < 3:
        out = folder / f"{name}-{tally.trials}"
        moments = _trial(phase, out, min(KILLS_A_TRIAL, kills - tally.kills), rng, tally)
        if moments is not None and (names := differing(whole, phase.result(out))):
            tally.faults.append(f"{name} trial {tally.trials}, killed {moments}: differs in {names}")
        tally.trials += 1
    return tally


@dataclass
class Stops:
    """What came of SIGTERMs: how many hit a working process, the slowest reaction in seconds, what went wrong."""

    phase: str
    stops: int = 0
    slowest: float = 0.0
    faults: list[str] = field(default_factory=list)


def preempted(name: str, folder: Path, times: int, seed: int) -> Stops:
    """SIGTERM at seeded moments of a phase, as its command line has it: exit code, tasks and bytes afterwards."""
    rng, found, out = random.Random(f"{seed} {name}"), Stops(name), folder / name
    phase, whole, _, operations = prepare(name, folder)
    while found.stops < times and len(found.faults) < 3:
        status = attempt(_as_command(phase), out, operation=rng.randrange(1, operations), number=signal.SIGTERM)
        if status == 128 + signal.SIGTERM:
            found.stops += 1
            found.slowest = max(found.slowest, time.time() - Path(f"{out}.signal").stat().st_mtime)
            found.faults += [f"{lease.relative_to(out)} is held still" for lease in _held(out)]
        elif status != 0:
            found.faults.append(f"ended with {status}, see {out}.txt")
        if status == 0:
            found.faults += differing(whole, phase.result(out))
            out = folder / f"{name}-{found.stops}"
    if attempt(phase.run, out) != 0:
        found.faults.append(f"did not go on, see {out}.txt")
    else:
        found.faults += differing(whole, phase.result(out))
    return found


def _as_command(phase: Phase) -> Callable[[Path], None]:
    def run(out: Path) -> None:
        try:
            with preemptible():
                phase.run(out)
        except Preempted as stop:
            raise SystemExit(stop.exit_code) from None

    return run


def _held(out: Path) -> list[Path]:
    """The newest lease of every task that nobody has given back."""
    newest: dict[str, Path] = {}
    for path in sorted(out.rglob("[!.]*.lease-*"), key=lambda path: int(path.name.rpartition("-")[2])):
        newest[str(path).rpartition("-")[0]] = path
    return [path for path in newest.values() if path.stat().st_mtime_ns != 0]


def _trial(phase: Phase, out: Path, kills: int, rng: random.Random, tally: Tally) -> list[str] | None:
    """One run with up to ``kills`` kills; when they came, or None if it did not end well."""
    moments: list[str] = []
    for _ in range(kills):
        if tally.kills % 2:
            operation = rng.randrange(1, tally.operations + 1)
            moments.append(f"before file operation {operation}")
            status = attempt(phase.run, out, operation=operation)
            tally.at_operations += status == -signal.SIGKILL
        else:
            seconds = rng.uniform(0, tally.length)
            moments.append(f"after {seconds:.4f} s")
            status = attempt(phase.run, out, seconds=seconds)
            tally.by_clock += status == -signal.SIGKILL
        if status == 0:
            return moments
        if status != -signal.SIGKILL:
            break
    else:
        status = attempt(phase.run, out)
    if status == 0:
        return moments
    tally.faults.append(
        f"{tally.phase} trial {tally.trials}, killed {moments}: then ended with {status}, see {out}.txt"
    )
    return None


def prepare(name: str, folder: Path) -> tuple[Phase, dict[str, Any], float, int]:
    """The phase, what comes out of an unbroken run, its seconds in a warm process, and its file operations."""
    torch.set_num_threads(1)
    tqdm.tqdm.monitor_interval = 0  # its thread would not survive a fork
    phase, whole, modules = PHASES[name], folder / f"{name}-whole", folder / f"{name}-modules.txt"

    def first(out: Path) -> None:
        phase.run(out)
        modules.write_text("\n".join(sys.modules))

    _unbroken(first, whole)
    for module in modules.read_text().splitlines():
        if module not in sys.modules:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    begin = time.perf_counter()
    operations = _unbroken(phase.run, folder / f"{name}-measured")
    return phase, phase.result(whole), time.perf_counter() - begin, operations


def _unbroken(run: Callable[[Path], None], out: Path) -> int:
    """How many file operations a run has."""
    reading, writing = os.pipe()
    status = attempt(run, out, report=writing)
    os.close(writing)
    operations = int(os.read(reading, 20) or 0)
    os.close(reading)
    if status != 0 or operations == 0:
        raise RuntimeError(f"an unbroken run ended with {status}: {Path(f'{out}.txt').read_text()[-2000:]}")
    return operations


def attempt(
    run: Callable[[Path], Any], out: Path, *, seconds: float | None = None, operation: int | None = None,
    report: int | None = None, number: int = signal.SIGKILL, log: Path | None = None,
) -> int:  # fmt: skip
    """``run(out)`` in a fork of this process; its exit code, negative for a signal.

    Args:
        run, out: what to do; its words go to ``log``, or else to ``out.txt`` beside the folder.
        seconds: signal it then.
        operation: signal it before its file operation of this number (from 1) in ``out``.
        report: file descriptor to which it writes how many there were.
        number: the signal.
        log: see ``run``.
    """
    others = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if others:
        raise RuntimeError(f"threads {others} would not survive a fork")
    child = os.fork()
    if child == 0:
        _child(run, out, operation, report, number, log or Path(f"{out}.txt"))
    return _outcome(child, seconds, number)


def _child(
    run: Callable[[Path], Any], out: Path, operation: int | None, report: int | None, number: int, words: Path
) -> None:
    log = os.open(words, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    status = 1
    try:
        seen = _count_operations(out, operation, number)
        run(out)
        if report is not None:
            os.write(report, str(seen[0]).encode())
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _count_operations(out: Path, operation: int | None, number: int) -> list[int]:
    """Counts what touches files in ``out`` from now on; sends the signal before the operation of a number."""
    inside, seen = str(out), [0]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _TOUCHING and args and str(args[0]).startswith(inside):
            seen[0] += 1
            if seen[0] == operation:
                open(f"{out}.signal", "w").close()
                os.kill(os.getpid(), number)

    sys.addaudithook(hook)
    return seen


def _outcome(child: int, seconds: float | None, number: int) -> int:
    begin = time.monotonic()
    sent = seconds is None
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        spent = time.monotonic() - begin
        if not sent and seconds is not None and spent >= seconds:
            os.kill(child, number)
            sent = True
        if spent > _PATIENCE:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 998
        time.sleep(0.001)


def differing(whole: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Names of what is not the same."""
    return sorted(name for name in {*whole, *found} if whole.get(name) != found.get(name))
