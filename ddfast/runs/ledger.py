"""The ledger: a run is a fixed list of idempotent tasks that any number of workers take from a shared folder.

    run.json                 format, configuration and its fingerprint, task ids in order
    tasks/<task>.lease-<g>   who works on it (see `ddfast.runs.lease`)
    tasks/<task>.failed-<g>.json  why an attempt ended in an error (see `ddfast.runs.failure`)
    tasks/<task>.told.json   how far it is, for people (see `ddfast.runs.told`)
    tasks/<task>.done.json   its files with sizes and SHA-256, and the task's record; written after the files
    records.json             all done records in one file once the run is finished; tasks/ is gone then

Workers need nothing but the folder: no server, no collective operation, no order of arrival. A task done twice (its
worker was wrongly taken for dead) ends in the same bytes, since tasks draw their random numbers by counter.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ddfast._outside import has_link, read_json
from ddfast.runs import description, folder
from ddfast.runs.atomic import (
    RunError,
    atomic_create_bytes,
    atomic_write_bytes,
    explain,
    remove_temporaries,
)
from ddfast.runs.lease import CLOCK_SKEW, DEFAULT_EXPIRY, LeaseBook
from ddfast.runs.task import DoneRecord, Task

_NONE = (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.EINVAL)  # no file, or something else of its name

_FIRST_PAUSE = 0.05  # seconds


@dataclass(frozen=True)
class Status:
    """How far a run is: tasks in all, done, held by a live worker, free to be claimed."""

    total: int
    done: int
    running: int
    free: int


class Ledger:
    """The tasks of one run. Make it with `create`, `resume` or `join`, and close it (it is a context manager).

    Example::

        with Ledger.create(out, tasks, config) as ledger:
            for task in ledger.claims():
                with task:
                    task.write_bytes("00000/a.jpg", data)
                    task.complete({"seconds": 1.5})
            ledger.finish()
    """

    def __init__(self, root: Path, tasks: Sequence[str], *, expiry: float, clock_skew: float) -> None:
        self.root = root
        self.tasks = tuple(tasks)
        self._book = LeaseBook(root / folder.TASKS_FOLDER, expiry=expiry, clock_skew=clock_skew)
        self._done: dict[str, DoneRecord] = {}
        self._order = self.tasks
        self._gathered: tuple[tuple[int, int, int], dict[str, Any]] | None = None

    @classmethod
    def create(
        cls,
        root: str | os.PathLike[str],
        tasks: Sequence[str],
        config: Mapping[str, Any],
        *,
        overwrite: bool = False,
        outputs: Sequence[str] = folder.DEFAULT_OUTPUTS,
        expiry: float = DEFAULT_EXPIRY,
        clock_skew: float = CLOCK_SKEW,
    ) -> Ledger:
        """Start a new run in a folder that is empty or does not exist.

        Args:
            root: output folder; results and state go here.
            tasks: task ids in their order: letters, digits, ``_`` and ``-``, each once.
            config: what decides the results, as JSON values. Leave out what does not (workers, batch size).
            overwrite: first delete an earlier ddfast run or distilled set from the folder; never anything else.
            outputs: shell patterns of the entries the run will make in ``root``; a later overwrite deletes only these.
            expiry: seconds without a heartbeat after which a worker counts as dead.
            clock_skew: seconds by which the wall clocks of two machines may differ.

        Raises:
            RunError: the folder holds another run or other files, or cannot be written.
            ValueError, TypeError: bad task ids or a configuration that is not JSON.
        """
        path = Path(root)
        run = description.describe(tasks, config, outputs)
        if overwrite:
            folder.clear_folder(path)
        elif not folder.is_empty(path):
            raise RunError(description.refusal(path, run))
        return cls._open(path, run, expiry=expiry, clock_skew=clock_skew)

    @classmethod
    def resume(
        cls,
        root: str | os.PathLike[str],
        tasks: Sequence[str],
        config: Mapping[str, Any],
        *,
        verify: bool = False,
        outputs: Sequence[str] = folder.DEFAULT_OUTPUTS,
        expiry: float = DEFAULT_EXPIRY,
        clock_skew: float = CLOCK_SKEW,
    ) -> Ledger:
        """Go on with the run in ``root``, or start it if the folder is empty; several workers may call it at once.

        Args:
            verify: read every finished file again and compare its SHA-256; tasks that fail are done anew. Without it
                files are checked for presence and size.
            root, tasks, config, outputs, expiry, clock_skew: as in `create`.

        Raises:
            RunError: the folder holds a run with another configuration or other tasks (each differing key is named), or
                files that are no run, or cannot be written.
            ValueError, TypeError: as in `create`.
        """
        path = Path(root)
        run = description.describe(tasks, config, outputs)
        # in this order: another worker may be starting the run right now, and run.json is the first file it makes
        if not folder.is_empty(path) and not (path / folder.RUN_FILE).exists():
            raise RunError(f"{path}: holds files but no run to resume (no {folder.RUN_FILE}); choose another folder")
        ledger = cls._open(path, run, expiry=expiry, clock_skew=clock_skew)
        for task in ledger.invalid(checksums=verify):
            if not ledger.completed(task, checksums=verify):  # a worker that finishes may have dropped its files since
                ledger.forget(task)
        return ledger

    @classmethod
    def join(
        cls,
        root: str | os.PathLike[str],
        tasks: Sequence[str],
        config: Mapping[str, Any],
        *,
        timeout: float = 600.0,
        outputs: Sequence[str] = folder.DEFAULT_OUTPUTS,
        expiry: float = DEFAULT_EXPIRY,
        clock_skew: float = CLOCK_SKEW,
    ) -> Ledger:
        """Take part in a run that another worker of the same launch (its first one) creates; waits until it is there.

        Args:
            timeout: seconds to wait for ``run.json``.
            root, tasks, config, outputs, expiry, clock_skew: as in `create`.

        Raises:
            RunError: no run appeared in time, or one with another configuration.
        """
        path = Path(root)
        limit = time.monotonic() + timeout
        while not (path / folder.RUN_FILE).exists():
            if time.monotonic() > limit:
                raise RunError(f"{path}: no {folder.RUN_FILE} after {timeout:g} s; did the first worker fail to start?")
            time.sleep(min(0.2, timeout))
        return cls._open(path, description.describe(tasks, config, outputs), expiry=expiry, clock_skew=clock_skew)

    @classmethod
    def _open(cls, path: Path, run: dict[str, Any], *, expiry: float, clock_skew: float) -> Ledger:
        """Write run.json unless it is there; then it must say the same."""
        run_file = path / folder.RUN_FILE
        if not run_file.exists():
            atomic_create_bytes(run_file, description.as_bytes(run))  # of two workers here at once, one wins
        description.check_same(path, description.read_run(path), run)
        ledger = cls(path, run["tasks"], expiry=expiry, clock_skew=clock_skew)
        if not (path / folder.RECORDS_FILE).exists():
            ledger._make_tasks_folder()
        return ledger

    def prefer(self, index: int, count: int) -> None:
        """Look at tasks index, index + count, index + 2 count ... first, so that workers seldom collide.

        Raises:
            ValueError: not 0 <= index < count.
        """
        if not 0 <= index < count:
            raise ValueError(f"index: got {index} with count {count}, expected 0 <= index < count")
        own = self.tasks[index::count]
        chosen = set(own)
        self._order = (*own, *(task for task in self.tasks if task not in chosen))

    def claim_next(self, among: Collection[str] | None = None) -> Task | None:
        """The next task that is neither done nor held by a live worker, now held by this one; None if there is none.

        Args:
            among: only these tasks, where others have to wait for them; None for all.

        Raises:
            RunError, OSError: the folder cannot be written.
        """
        for task in self._order if among is None else [task for task in self._order if task in among]:
            claimed = self._try(task)
            if claimed is not None:
                return claimed
        return None

    def claim(self, task: str) -> Task:
        """One given task, for work that must go in order.

        Raises:
            ValueError: no such task.
            RunError: it is done, or a live worker holds it; or the folder cannot be written.
        """
        if task not in self.tasks:
            raise ValueError(f"task: got {task!r}, which is none of the {len(self.tasks)} tasks of this run")
        claimed = self._try(task)
        if claimed is None:
            state = "done already" if self.completed(task) else "held by another worker; run only one at a time"
            raise RunError(f"{self.root}: task {task} is {state}")
        return claimed

    def claim_or_wait(
        self, task: str, *, poll: float = 1.0, on_wait: Callable[[str], None] | None = None
    ) -> Task | None:
        """One given task, for work that must go in order: held by this worker, or done by another.

        While a live worker holds the task this one waits, and takes over if that one dies or gives it back.

        Args:
            task: which.
            poll: seconds between two looks while waiting, once a few shorter ones are over.
            on_wait: called once, before the first wait, with a line that says which task is waited for and who holds
                it; the place to let go of memory.

        Returns:
            The task, to be used as a context manager; None once it is done.

        Raises:
            ValueError: no such task.
            RunError, OSError: the folder cannot be written.
        """
        if task not in self.tasks:
            raise ValueError(f"task: got {task!r}, which is none of the {len(self.tasks)} tasks of this run")
        pauses = _pauses(poll)
        while not self.completed(task):
            claimed = self._try(task)
            if claimed is not None:
                return claimed
            if on_wait is not None and not self.completed(task):
                on_wait(self.waiting_line(task))
                on_wait = None
            time.sleep(next(pauses))
        return None

    def busy(self, task: str) -> bool:
        """True if a live worker other than this one holds ``task``."""
        return not self.completed(task) and self._book.held_by_other(task)

    def waiting_line(self, task: str) -> str:
        """For people: which task is waited for, and who holds it."""
        holder = self._book.holder(task)
        machine, _, pid = holder.rpartition(":")[0].rpartition(":")
        whose = f"process {pid} on {machine}" if pid else "another worker"
        return f"{self.root}: waiting for task {task}, held by {whose}; should that one end, this one goes on with it"

    def claims(
        self, *, wait: bool = True, poll: float = 1.0, wanted: Callable[[], bool] | None = None,
        on_wait: Callable[[str], None] | None = None,
    ) -> Iterator[Task]:  # fmt: skip
        """Task after task until the run is finished.

        Args:
            wait: when only tasks held by other workers are left, wait for them, and take over those whose worker dies.
                False: stop instead.
            poll: seconds between two looks while waiting, once a few shorter ones are over.
            wanted: asked before each look; the first False ends it, as if no task were left.
            on_wait: called once, before the first wait, with a line that says which task is waited for and who holds
                it.

        Yields:
            `Task` objects; use each as a context manager before taking the next.
        """
        pauses = _pauses(poll)
        while wanted is None or wanted():
            task = self.claim_next()
            if task is not None:
                yield task
                pauses = _pauses(poll)
            elif not wait or self.finished():
                return
            else:
                if on_wait is not None and (held := [task for task in self.tasks if self.busy(task)]):
                    on_wait(self.waiting_line(held[0]))
                    on_wait = None
                time.sleep(next(pauses))

    def completed(self, task: str, *, checksums: bool = False) -> bool:
        """True if ``task`` has a done record and its files are there with the recorded sizes (and contents).

        Args:
            checksums: also read the files and compare their SHA-256.
        """
        for _ in range(2):  # between the record and its files another worker, finishing, may have dropped these
            record = self._load(task)
            if record is not None and record.intact(self.root, checksums=checksums):
                self._done[task] = record
                return True
            if record is None:
                break
        self._done.pop(task, None)
        return False

    def invalid(self, *, checksums: bool) -> list[str]:
        """Tasks with a done record whose files are missing, or changed in size (or, with ``checksums``, contents)."""
        bad = []
        for task in self.tasks:
            record = self._load(task)
            if record is not None and record.intact(self.root, checksums=checksums):
                self._done[task] = record  # need not be looked at again
            elif record is not None:
                bad.append(task)
        return bad

    def forget(self, task: str) -> None:
        """Drop the done record of ``task`` and the files it names, so that it is done anew."""
        self._done.pop(task, None)
        self._make_tasks_folder()
        record = self._load(task)
        for name in record.files if record is not None else ():
            if not has_link(self.root, name.rpartition("/")[0]):  # what a link leads to is none of this run's
                (self.root / name).unlink(missing_ok=True)
        self.done_path(task).unlink(missing_ok=True)
        records = dict(self._read_records() or {})
        if records.pop(task, None) is not None:
            atomic_write_bytes(self.root / folder.RECORDS_FILE, description.as_bytes(records))

    def finished(self) -> bool:
        """True if every task is done."""
        return all(task in self._done or self.completed(task) for task in self.tasks)

    def records(self) -> dict[str, DoneRecord]:
        """The done records of the finished tasks, in task order."""
        return {task: self._done[task] for task in self.tasks if task in self._done or self.completed(task)}

    def status(self) -> Status:
        """Counts as of now; they may be old by the time you read them."""
        done = sum(1 for task in self.tasks if self.completed(task))
        running = sum(1 for task in self.tasks if task not in self._done and self._book.held_by_other(task))
        running += self._book.held_count()
        return Status(len(self.tasks), done, running, len(self.tasks) - done - running)

    def finish(self, *, keep_files: bool | Collection[str] = True) -> None:
        """Once every task is done: gather the done records in ``records.json`` and remove ``tasks/`` and temporaries.

        Any worker may call it, also several at once. The folder then holds only results and a few files, so that
        readers which take every sub-folder for a class see classes only.

        Args:
            keep_files: False deletes the tasks' files, for a run that made another result of them; their tasks stay
                done. Some tasks: deletes those of all others.

        Raises:
            RunError: some tasks are not done.
        """
        if not self.finished():
            status = self.status()
            raise RunError(f"{self.root}: {status.done} of {status.total} tasks are done; finish needs all of them")
        records = self.records()
        keep = (self.tasks if keep_files else ()) if isinstance(keep_files, bool) else keep_files
        dropped = {task for task in self.tasks if task not in keep}
        if any(self._gathered_record(task) is None for task in self.tasks):  # else another worker was here
            kept = {task: record.without_files() if task in dropped else record for task, record in records.items()}
            # without who did it when, so that interrupted and uninterrupted runs end in the same bytes
            content = description.as_bytes({task: record.settled().as_json() for task, record in kept.items()})
            try:
                atomic_write_bytes(self.root / folder.RECORDS_FILE, content)
            except FileNotFoundError:  # another worker, done with the same, has swept this one's temporary
                if self._read_records() is None:
                    raise
        paths = [self.root / name for record in records.values() for name in record.files]
        for directory in {path.parent for path in paths} - {self.root}:
            remove_temporaries(directory)
        # beside the results other workers may be writing the same few files at this moment
        remove_temporaries(self.root, idle=self._book.expiry)
        for task in dropped:
            for name in records[task].files:
                (self.root / name).unlink(missing_ok=True)
        self._book.close()
        shutil.rmtree(self.root / folder.TASKS_FOLDER, ignore_errors=True)

    def close(self) -> None:
        """Give back what is held and stop the heartbeat."""
        self._book.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def done_path(self, task: str) -> Path:
        """Where the done record of ``task`` is while the run goes on."""
        return self.root / folder.TASKS_FOLDER / f"{task}.done.json"

    def _try(self, task: str) -> Task | None:
        if task in self._done or self.completed(task):
            return None
        try:
            self._make_tasks_folder()
            attempt = self._book.claim(task)
        except FileNotFoundError as error:
            if not self.root.is_dir():
                raise RunError(f"{self.root}: the folder of the run is gone; start it again") from error
            return None  # another worker, finishing, has removed tasks/ just now: the next look says so
        if attempt is None:
            return None
        if self.completed(task):  # finished between the look and the claim
            self._book.clear(task)
            return None
        return Task(self, self._book, task, attempt)

    def _load(self, task: str) -> DoneRecord | None:
        # the gathered records come first: they say so if another worker, finishing, has dropped the task's files
        gathered = self._gathered_record(task)
        if gathered is not None:
            return gathered
        try:
            return DoneRecord.from_json(read_json(self.done_path(task)))
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, OSError) and error.errno not in _NONE:
                raise
            return None  # none, or damaged: as if it had not been done

    def _gathered_record(self, task: str) -> DoneRecord | None:
        """The task's entry of records.json; None if it has none or a damaged one."""
        try:
            return DoneRecord.from_json((self._read_records() or {})[task])
        except (ValueError, TypeError, KeyError):
            return None

    def _read_records(self) -> dict[str, Any] | None:
        """The entries of records.json, not to be changed; read again only when the file changed."""
        path = self.root / folder.RECORDS_FILE
        try:
            stat = path.stat()
            key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if self._gathered is None or self._gathered[0] != key:
                content = read_json(path)
                self._gathered = (key, content if isinstance(content, dict) else {})
        except ValueError:
            return None
        except OSError as error:
            if error.errno not in _NONE:
                raise
            return None
        return self._gathered[1]

    def _make_tasks_folder(self) -> None:
        path = self.root / folder.TASKS_FOLDER
        try:
            path.mkdir(exist_ok=True)  # a run whose folder was removed does not come back
        except OSError as error:
            raise explain(error, path, "making the folder") or error from error


def _pauses(longest: float) -> Iterator[float]:
    """Seconds to sleep between looks: what is waited for is often nearly done."""
    pause = min(_FIRST_PAUSE, longest)
    while True:
        yield pause
        pause = min(2 * pause, longest)
