"""Why an attempt at a task ended in an error: ``tasks/<task>.failed-<attempt>.json``, until the task is done.

A failed task is free at once, for the same worker when it is started again and for others. The records are for people:
`ddfast.runs.overview` lists them.
"""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

from ddfast._outside import read_json
from ddfast._printable import printable
from ddfast.runs.atomic import RunError, atomic_write_bytes

_LONGEST = 2000  # characters of an error's text
MAX_STATE_BYTES = 1 << 20  # of a lease or the record of a failure


@dataclass(frozen=True)
class Failure:
    """One failed attempt: ``error`` is its type and text, ``where`` the innermost place in the program.

    ``when`` is in seconds since 1970 by the worker's clock, ``seconds`` what the attempt had taken.
    """

    task: str
    attempt: int
    error: str
    where: str
    owner: str
    when: float
    seconds: float

    @classmethod
    def of(cls, error: BaseException, task: str, attempt: int, owner: str, seconds: float) -> Failure:
        """The record of an error that was caught just now."""
        text = f"{type(error).__name__}: {error}"
        frames = traceback.extract_tb(error.__traceback__)
        where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        return cls(task, attempt, text[:_LONGEST], where, owner, round(time.time(), 3), seconds)

    def keep(self, folder: Path) -> None:
        """Write the record; if that fails too there is none, and the error itself is what the user gets to see."""
        if not folder.is_dir():
            return  # another worker, which had taken the task over, has finished the run
        try:
            atomic_write_bytes(failure_path(folder, self.task, self.attempt), json.dumps(asdict(self)).encode())
        except (RunError, OSError):
            return  # such as a full disk, which is probably why the task failed

    @classmethod
    def read(cls, path: Path) -> Failure | None:
        """The record in a file; None if it is gone or damaged."""
        try:
            content = read_json(path, MAX_STATE_BYTES)
            return cls(
                str(content["task"]), int(content["attempt"]), brief(content["error"]), brief(content["where"]),
                brief(content["owner"]), float(content["when"]), float(content["seconds"]),
            )  # fmt: skip
        except (OSError, ValueError, TypeError, KeyError):
            return None


def brief(text: object) -> str:
    """Text of a state file for people, cut short."""
    return printable(str(text)[:_LONGEST])


def failure_path(folder: Path, task: str, attempt: int) -> Path:
    """The file of one failed attempt."""
    return folder / f"{task}.failed-{attempt}.json"


def drop_failures(folder: Path, task: str, attempts: int) -> None:
    """Remove the records of attempts 0 to ``attempts``."""
    for attempt in range(attempts + 1):
        failure_path(folder, task, attempt).unlink(missing_ok=True)
