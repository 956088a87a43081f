"""One claimed task and the record it leaves."""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ddfast._outside import as_text, has_link, is_safe_path
from ddfast.runs import folder
from ddfast.runs.atomic import RunError, discard, publish, stage_bytes
from ddfast.runs.failure import Failure, drop_failures
from ddfast.runs.lease import LeaseBook

if TYPE_CHECKING:
    from ddfast.runs.ledger import Ledger

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """Size in bytes and SHA-256 (hexadecimal) of one result file."""

    size: int
    sha256: str


@dataclass(frozen=True)
class DoneRecord:
    """What a finished task left: its files by path relative to the run folder, its record, and who made it."""

    task: str
    files: dict[str, FileEntry]
    record: dict[str, Any]
    owner: str = ""
    seconds: float = 0.0
    attempt: int = 0

    def intact(self, root: Path, *, checksums: bool = False) -> bool:
        """True if every file is there, is no link, and has its recorded size and, with ``checksums``, SHA-256."""
        for name, entry in self.files.items():
            path = root / name
            try:
                if has_link(root, name) or path.stat().st_size != entry.size:
                    return False
                if checksums and hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
                    return False
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def settled(self) -> DoneRecord:
        """The record without what differs between runs: owner, seconds and attempt."""
        return replace(self, owner="", seconds=0.0, attempt=0)

    def without_files(self) -> DoneRecord:
        """The record of a task whose files are no longer needed."""
        return replace(self, files={})

    def as_json(self) -> dict[str, Any]:
        """The record as JSON values; `from_json` reads it back."""
        files = {name: {"bytes": entry.size, "sha256": entry.sha256} for name, entry in self.files.items()}
        return {
            "task": self.task,
            "files": files,
            "record": self.record,
            "owner": self.owner,
            "seconds": self.seconds,
            "attempt": self.attempt,
        }

    @classmethod
    def from_json(cls, value: Any) -> DoneRecord:
        """The inverse of `as_json`.

        Raises:
            KeyError, TypeError, ValueError: ``value`` is not what `as_json` made.
        """
        if not all(isinstance(part, Mapping) for part in (value, value["files"], value["record"])):
            raise TypeError("a done record is a mapping, with the mappings files and record")
        files = {check_name(name): _entry(entry) for name, entry in value["files"].items()}
        seconds, attempt = float(value["seconds"]), int(value["attempt"])
        if not 0 <= seconds < math.inf or attempt < 0:
            raise ValueError(f"a done record of {seconds} seconds and attempt {attempt}")
        return cls(str(value["task"]), files, dict(value["record"]), str(value["owner"]), seconds, attempt)


@dataclass
class Task:
    """A task this worker holds. Use it as a context manager and call `complete` inside.

    Leaving by an exception (KeyboardInterrupt too) removes what was staged and gives the task back at once. ``attempt``
    counts how often the task was begun before.
    """

    ledger: Ledger
    book: LeaseBook
    id: str
    attempt: int
    _staged: dict[str, tuple[Path, FileEntry]] = field(default_factory=dict, repr=False)
    _noted: dict[str, FileEntry] = field(default_factory=dict, repr=False)
    _finished: bool = field(default=False, repr=False)
    _began: float = field(default_factory=time.monotonic, repr=False)

    @property
    def lost(self) -> bool:
        """True if another worker took the task over (this one stood still too long); stopping early saves work."""
        return self.book.lost(self.id)

    def tell(self, text: str) -> None:
        """Say how far the task is, for ``ddfast status``; cheap, as only every heartbeat writes the last words.

        Args:
            text: a line; what is beyond 300 characters is cut off.

        Raises:
            TypeError: it is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text: got {type(text).__name__}, expected words (str) on how far the task is")
        self.book.tell(self.id, text)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Stage one result file; it gets its name when the task completes.

        Args:
            name: path relative to the run folder, with ``/`` between folders.
            data: the contents.

        Raises:
            ValueError: ``name`` is absolute, leaves the folder, or is one of the ledger's own files.
            RunError: the disk is full or read-only, or a link stands where the file's folder should be.
        """
        path = self.ledger.root / check_name(name)
        if "/" in name and has_link(self.ledger.root, name.rpartition("/")[0]):
            raise RunError(f"{path.parent}: is reached by a link, expected a folder of this run; remove the link")
        temporary = stage_bytes(path, data)
        if name in self._staged:
            discard([self._staged[name][0]])
        self._staged[name] = (temporary, FileEntry(len(data), hashlib.sha256(data).hexdigest()))

    def record_file(self, name: str) -> None:
        """Note a result file that is written already, so that its size and contents are checked from then on.

        Args:
            name: as in `write_bytes`.

        Raises:
            ValueError: as in `write_bytes`.
            OSError: it is not there.
        """
        digest = hashlib.sha256()
        with (self.ledger.root / check_name(name)).open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
            self._noted[name] = FileEntry(file.tell(), digest.hexdigest())

    def complete(self, record: Mapping[str, Any] | None = None) -> bool:
        """Publish the staged files, then the done record.

        Args:
            record: what later stages need of this task, as JSON values.

        Returns:
            True if this worker's results stand; False if another worker had completed the task already, in which case
            this one's files are dropped.

        Raises:
            RunError: already completed, or the disk is full or read-only.
            TypeError, ValueError: ``record`` is not JSON (NaN and infinities are not).
        """
        if self._finished:
            raise RunError(f"task {self.id}: complete() was called twice, or after release()")
        done = DoneRecord(
            self.id,
            {**self._noted, **{name: entry for name, (_, entry) in self._staged.items()}},
            dict(record or {}),
            str(self.book.owner),
            round(time.monotonic() - self._began, 3),
            self.attempt,
        )
        content = json.dumps(done.as_json(), allow_nan=False, sort_keys=True).encode()
        first = not self.ledger.completed(self.id)
        staged, self._staged = self._staged, {}
        if first:
            first = self._publish(staged, content)
        else:
            discard(temporary for temporary, _ in staged.values())
        self._finished = True
        if self.attempt:
            drop_failures(self.book.folder, self.id, self.attempt)
        self.book.clear(self.id)
        return first

    def release(self) -> None:
        """Drop what was staged and give the task back; what ends the block then is no failure of this task."""
        self._finished = True
        discard(temporary for temporary, _ in self._staged.values())
        self._staged = {}
        self.book.release(self.id)

    def _publish(self, staged: Mapping[str, tuple[Path, FileEntry]], content: bytes) -> bool:
        record = self.ledger.done_path(self.id)
        try:
            publish([(temporary, self.ledger.root / name) for name, (temporary, _) in staged.items()])
            publish([(stage_bytes(record, content, folders=False), record)])
        except FileNotFoundError:
            # another worker took over, finished the run and swept our temporaries or tasks/; else it is a true fault
            if self.ledger.completed(self.id):
                return False
            raise
        return True

    def __enter__(self) -> Task:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._finished:
            return
        if isinstance(error, Exception):  # an interrupt is no failure of the task
            seconds = round(time.monotonic() - self._began, 3)
            Failure.of(error, self.id, self.attempt, str(self.book.owner), seconds).keep(self.book.folder)
        self.release()
        if kind is None:
            raise RunError(f"task {self.id}: the block ended without complete(); the task was given back")


def _entry(value: Any) -> FileEntry:
    size, sha256 = value["bytes"], value["sha256"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"bytes: got {as_text(size)}, expected a number of bytes")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256: got {as_text(sha256)}, expected 64 hexadecimal digits")
    return FileEntry(size, sha256)


def check_name(name: str) -> str:
    """Return ``name`` if it is a safe path relative to the run folder.

    Raises:
        ValueError: it is empty or absolute, has ``..``, ``.``, a backslash, a colon or control characters, or is one of
            the ledger's own files.
    """
    if not is_safe_path(name):
        raise ValueError(
            f"name: got {as_text(name)}, expected a relative path with / between folders, without .. or \\ or :"
        )
    parts = name.split("/")
    if parts[0] in folder.STATE:
        raise ValueError(f"name: got {name!r}, but {parts[0]} belongs to the ledger; choose another name")
    return name
