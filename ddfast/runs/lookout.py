"""What a run is doing, seen from outside while workers are at it: reads only, holds nothing, touches nothing.

A run may hold further ledgers below its own (experts, stages, blocks); all are looked at. A task is

  * done: it has a done record (its files are not looked at; a resumed run checks them),
  * running: a worker holds it, and its heartbeat may still be beating,
  * expired: its worker is dead or silent; the next worker that comes by takes it over,
  * failed: the last attempt ended in an error, which is kept, and nobody tries again now,
  * waiting: none of these.

A single look cannot see a heartbeat stand still. It takes the file server's own clock, of which the newest file in the
folder tells the least value; a second look by the same `Lookout` also counts the time in between, as workers do.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ddfast._outside import read_json
from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.runs import description, folder
from ddfast.runs.atomic import RunError
from ddfast.runs.failure import Failure, brief
from ddfast.runs.lease import CLOCK_SKEW, DEFAULT_EXPIRY, read_owner
from ddfast.runs.overview import LedgerView, Overview, TaskView
from ddfast.runs.told import read_told

_ENTRY = re.compile(r"([A-Za-z0-9_-]+)\.(?:(done|told)\.json|lease-([0-9]{1,9})|failed-([0-9]{1,9})\.json)")
_CLASS = re.compile(r"\d{5}")  # folders of a class's images
_DEPTH = 6
_RECENT = 50  # finished tasks that tell the rate


@dataclass
class Lookout:
    """Looks at a run once or, with a memory for heartbeats, again and again.

    Args:
        root: folder of a run, or of several.
        expiry: seconds without a heartbeat after which a worker counts as dead.
        clock_skew: seconds by which the wall clocks of two machines may differ.
    """

    root: Path
    expiry: float = DEFAULT_EXPIRY
    clock_skew: float = CLOCK_SKEW
    _heard: dict[str, tuple[int, float]] = field(default_factory=dict, repr=False)

    def look(self) -> Overview:
        """The run as of now.

        Raises:
            RunError: there is no run in the folder.
        """
        views = tuple(self._ledger(path) for path in find_ledgers(self.root))
        if not views:
            raise RunError(f"{self.root}: no run here or below (no {folder.RUN_FILE} of ddfast); give a run's folder")
        return Overview(self.root, views)

    def _ledger(self, path: Path) -> LedgerView:
        run = description.read_run(path)
        gathered = (path / folder.RECORDS_FILE).exists()
        tasks = self._tasks(path, run["tasks"])
        if not gathered and (path / folder.RECORDS_FILE).exists():
            tasks = self._tasks(path, run["tasks"])  # it was finished between two of our looks
        name = path.relative_to(self.root).as_posix()
        rate, eta = _pace(tasks)
        return LedgerView("" if name == "." else name, brief(run["config"].get("method", "")), tasks, rate, eta)

    def _tasks(self, path: Path, ids: list[str]) -> tuple[TaskView, ...]:
        files = _Files.of(path / folder.TASKS_FOLDER)
        records = _records(path)  # after the folder, which goes when these are complete
        return tuple(TaskView(task, "done") if task in records else self._task(task, files) for task in ids)

    def _task(self, task: str, files: _Files) -> TaskView:
        if task in files.done:
            record = _done(f"{files.folder}/{task}.done.json")
            if record is not None:
                owner, seconds = record
                return TaskView(task, "done", owner, seconds)
        told = read_told(Path(files.folder, f"{task}.told.json")) if task in files.told else ""
        failure = None
        attempt = files.failed.get(task, -1)
        if attempt >= 0:
            failure = Failure.read(Path(files.folder, f"{task}.failed-{attempt}.json"))
        generation = files.leases.get(task, -1)
        if generation >= 0 and (held := self._lease(task, generation, files)) is not None:
            return replace(held, failure=failure, told=told)
        return TaskView(task, "waiting" if failure is None else "failed", failure=failure, told=told)

    def _lease(self, task: str, generation: int, files: _Files) -> TaskView | None:
        """The task by its last lease; None if that was given back or cleared."""
        path = f"{files.folder}/{task}.lease-{generation}"
        try:
            beat = os.stat(path).st_mtime_ns
            owner = read_owner(Path(path))
        except FileNotFoundError:
            return None
        if beat == 0:
            return None
        now = time.monotonic()
        before = self._heard.get(path)
        if before is None or before[0] != beat:
            self._heard[path] = before = (beat, now)
        silent = max((files.newest() - beat) * 1e-9, now - before[1], 0.0)
        dead = owner is not None and owner.gone()
        over = silent > self.expiry or time.time() - beat * 1e-9 > self.expiry + self.clock_skew
        state = "expired" if dead or over else "running"
        return TaskView(task, state, "" if owner is None else str(owner), silent=round(silent, 1), gone=dead)


def find_ledgers(root: Path) -> Iterator[Path]:
    """Folders with a run of ddfast: ``root`` itself first, then those below it, sorted; class folders are not entered.

    Raises:
        RunError: a ``run.json`` is damaged or of another version.
    """
    yield from _below(root, _DEPTH)


def _below(path: Path, depth: int) -> Iterator[Path]:
    if _is_run(path):
        yield path
    if depth == 0:
        return
    try:
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # gone while we looked, or none of our business
    for name in names:
        if name != folder.TASKS_FOLDER and not name.startswith(TEMPORARY_PREFIX) and not _CLASS.fullmatch(name):
            yield from _below(path / name, depth - 1)


def _is_run(path: Path) -> bool:
    """A ``run.json`` of another program is passed over; a damaged one is for the reader to report."""
    try:
        content = read_json(path / folder.RUN_FILE)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    except ValueError:
        return True
    return isinstance(content, dict) and content.get("format") == description.RUN_FORMAT


@dataclass
class _Files:
    """The names in a ``tasks`` folder: tasks done, tasks with words, and the last generation and failed attempt of
    each."""

    folder: str
    done: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)
    leases: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    _newest: int = -1

    @classmethod
    def of(cls, path: Path) -> _Files:
        files = cls(str(path))
        try:
            names = os.listdir(path)
        except FileNotFoundError:
            return files
        for match in filter(None, map(_ENTRY.fullmatch, names)):
            task, word, generation, attempt = match.groups()
            if generation is not None:
                files.leases[task] = max(files.leases.get(task, -1), int(generation))
            elif attempt is not None:
                files.failed[task] = max(files.failed.get(task, -1), int(attempt))
            else:
                (files.done if word == "done" else files.told).add(task)
        return files

    def newest(self) -> int:
        """The latest heartbeat in nanoseconds, by the file server's clock."""
        if self._newest < 0:
            for task, generation in self.leases.items():
                try:
                    beat = os.stat(f"{self.folder}/{task}.lease-{generation}").st_mtime_ns
                except FileNotFoundError:
                    continue
                self._newest = max(self._newest, beat)
        return self._newest


def _records(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path / folder.RECORDS_FILE)
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _done(path: str) -> tuple[str, float] | None:
    """Owner and seconds of a done record; None if it is gone or damaged."""
    try:
        content = read_json(path)
        seconds = float(content["seconds"])
        return (brief(content["owner"]), seconds) if 0 <= seconds < math.inf else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _pace(tasks: tuple[TaskView, ...]) -> tuple[float, float | None]:
    left = sum(task.state != "done" for task in tasks)
    held = sum(task.state == "running" for task in tasks)
    took = [task.seconds for task in tasks if task.seconds is not None][-_RECENT:]
    if left == 0:
        return 0.0, 0.0
    if not held or not took or sum(took) <= 0:
        return 0.0, None
    rate = held * len(took) / sum(took)
    return rate, left / rate
