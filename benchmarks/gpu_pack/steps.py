"""One step of the pack: a command with a time limit, its log, and what became of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

KILL_AFTER = 10.0  # seconds between the polite and the final signal


@dataclass(frozen=True)
class Step:
    """A command; ``missing`` says why it cannot run here ("" when it can)."""

    part: int
    name: str
    command: tuple[str, ...]
    seconds: float
    missing: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """``status``: passed, failed, timed out, skipped or not started; ``detail``: last line of output, or the reason."""

    part: int
    name: str
    status: str
    seconds: float
    detail: str = ""
    returncode: int | None = None

    def write(self, out: Path) -> None:
        """Keeps the outcome in ``out/steps/<part>-<name>.json``."""
        path = outcome_path(out, self.part, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")


def outcome_path(out: Path, part: int, name: str) -> Path:
    """Where an outcome is kept."""
    return out / "steps" / f"{part}-{name}.json"


def read_outcomes(out: Path) -> list[Outcome]:
    """All outcomes in the order of their parts and times."""
    paths = sorted((out / "steps").glob("*.json"), key=lambda p: (int(p.name.split("-")[0]), p.stat().st_mtime))
    return [Outcome(**json.loads(path.read_text())) for path in paths]


def run_step(step: Step, out: Path, left: float) -> Outcome:
    """Runs a step for at most its own limit and ``left`` seconds; never raises for what the command does."""
    if step.missing:
        return Outcome(step.part, step.name, "skipped", 0.0, step.missing)
    limit = min(step.seconds, left)
    if limit < min(step.seconds, 20.0):
        return Outcome(step.part, step.name, "not started", 0.0, "the part's time was used up: run it again")
    log = out / "logs" / f"{step.part}-{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with log.open("wb") as stream:
        stream.write((" ".join(step.command) + "\n").encode())
        stream.flush()
        try:
            code = _wait(step, stream.fileno(), limit)
        except OSError as error:
            return Outcome(step.part, step.name, "failed", 0.0, f"cannot be started: {error}")
    seconds = round(time.monotonic() - began, 2)
    status = "timed out" if code is None else "passed" if code == 0 else "failed"
    detail = f"stopped after {limit:.0f} s; " if code is None else ""
    return Outcome(step.part, step.name, status, seconds, detail + _last_line(log), code)


def _wait(step: Step, output: int, limit: float) -> int | None:
    """Exit code, or None when the time was over; children of the command end with it."""
    process = subprocess.Popen(
        step.command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **step.env}, start_new_session=True
    )
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    for how, patience in ((signal.SIGTERM, KILL_AFTER), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        try:
            process.wait(timeout=patience)
            if how == signal.SIGKILL or not _alive(process.pid):
                return
        except subprocess.TimeoutExpired:
            continue


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if len(lines) > 1 else ""
