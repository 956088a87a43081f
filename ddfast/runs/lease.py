"""Leases: who works on a task now, kept as small files on a file system that machines share.

Task ``t`` is held through ``t.lease-<generation>``. A generation gets its name, with its contents, in one exclusive
step, so exactly one worker gets it, and its number is never used again: taking over a lease means making the next
generation, for which again only one worker can win. Nothing is renamed or deleted under a live worker's feet.

A lease is over when
  * it was given back (its modification time is 0: that needs no disk space, so it works on a full disk), or
  * its process is gone: seen only from the same machine, boot and process namespace, and safe against a reused
    process number, or
  * its heartbeat stood still for ``expiry`` seconds *of the looking worker's own monotonic clock*. No two clocks are
    compared, so clock skew between machines cannot end a live lease; or
  * its last heartbeat is more than ``expiry + CLOCK_SKEW`` seconds old by the wall clock, which spares a later resume
    the wait. Machines whose clocks differ by more than CLOCK_SKEW would at worst do a task twice.

Network file systems cache attributes (NFS up to 60 s), hence the default expiry of three minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ddfast._outside import read_json
from ddfast._temporary import ended, machine, process_start
from ddfast.runs.atomic import create_exclusive, discard
from ddfast.runs.told import keep_told, told_path

CLOCK_SKEW = 900.0
DEFAULT_EXPIRY = 180.0
BEATS_PER_EXPIRY = 6
_MAX_BYTES, _MAX_TEXT = 1 << 16, 1000


@dataclass(frozen=True)
class Owner:
    """One ledger object in one process: machine (host, boot, process namespace), process and a random part."""

    machine: str
    pid: int
    started: str
    token: str

    @classmethod
    def here(cls) -> Owner:
        """The owner for this process, with a fresh random part."""
        return cls(machine(), os.getpid(), process_start(os.getpid()), secrets.token_hex(8))

    def __str__(self) -> str:
        return f"{self.machine.split('/')[0]}:{self.pid}:{self.token}"

    def gone(self) -> bool:
        """True if the process certainly ended; False if it lives or cannot be seen from here."""
        return self.machine == machine() and ended(self.pid, self.started)


class LeaseBook:
    """The leases of one folder as one worker sees them.

    Args:
        folder: where the lease files are.
        expiry: seconds without a heartbeat after which a lease is over.
        clock_skew: seconds by which the wall clocks of two machines may differ.
    """

    def __init__(self, folder: Path, *, expiry: float = DEFAULT_EXPIRY, clock_skew: float = CLOCK_SKEW) -> None:
        if not expiry > 0:
            raise ValueError(f"expiry: got {expiry!r}, expected a positive number of seconds")
        self.folder = folder
        self.expiry = expiry
        self.clock_skew = clock_skew
        self.owner = Owner.here()
        self._seen: dict[str, tuple[int, int, float]] = {}
        self._held: dict[str, int] = {}
        self._changing: tuple[str, int] | None = None  # the last to be made or given back
        self._lost: set[str] = set()
        self._told: dict[str, str] = {}  # words that are not written yet
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def path(self, task: str, generation: int) -> Path:
        """The file of one generation."""
        return self.folder / f"{task}.lease-{generation}"

    def claim(self, task: str) -> int | None:
        """Try to get the lease of ``task``.

        Returns:
            The generation got (0 for a fresh task, more after failures and take-overs), or None if another worker
            holds it or was faster.

        Raises:
            RunError, OSError: the lease file cannot be written.
        """
        generation = self._next_generation(task)
        if generation is None:
            return None
        self._changing = (task, generation)
        if not self._create(task, generation):
            return None
        self._seen.pop(task, None)
        if generation:
            discard([told_path(self.folder, task)])  # an earlier attempt's words
        with self._lock:
            self._held[task] = generation
            self._lost.discard(task)
        self._start_heartbeat()
        return generation

    def held_by_other(self, task: str) -> bool:
        """True if a live worker, not this one, holds ``task``."""
        return task not in self._held and self.last_generation(task) >= 0 and self._next_generation(task) is None

    def held_count(self) -> int:
        """How many tasks this worker holds."""
        return len(self._held)

    def lost(self, task: str) -> bool:
        """True if this worker held ``task`` and another one has taken it over since.

        The files are looked at: a worker that stood still must know before it writes, not at its next heartbeat.
        """
        generation = self._held.get(task)
        if generation is not None and (
            self.path(task, generation + 1).exists() or not self.path(task, generation).exists()
        ):
            self._lost.add(task)
        return task in self._lost

    def holder(self, task: str) -> str:
        """The owner of the newest lease of ``task``, as text; "" if there is none, or it cannot be read."""
        try:
            owner = read_owner(self.path(task, max(self.last_generation(task), 0)))
        except FileNotFoundError:
            return ""
        return "" if owner is None else str(owner)

    def tell(self, task: str, text: str) -> None:
        """Words for those who look at the run; written with the next heartbeat, or when the task is given back."""
        self._told[task] = text

    def release(self, task: str) -> None:
        """Give the lease back; the task is free at once."""
        with self._lock:  # a heartbeat may be writing earlier ones
            text = self._told.pop(task, None)
            if text is not None and not self.lost(task):
                keep_told(self.folder, task, text)
        generation = self._forget(task)
        if generation is not None:
            try:
                os.utime(self.path(task, generation), (0, 0), follow_symlinks=False)
            except OSError:
                # somebody else finished the task and cleared its leases; or the disk refuses (read-only, the file
                # server away), which the caller has heard of already: then the lease has to expire
                return

    def clear(self, task: str) -> None:
        """Remove all lease files of a finished task, and its words; `discard` says which stay."""
        self._forget(task)
        discard([told_path(self.folder, task)])
        discard(self.path(task, generation) for generation in range(self.last_generation(task), -1, -1))

    def close(self) -> None:
        """Give back every lease still held and stop the heartbeat."""
        for task in list(self._held):
            self.release(task)
        if self._changing is not None:  # a signal may have come between the file and our note of it
            owner = None
            with contextlib.suppress(OSError):
                owner = read_owner(self.path(*self._changing))
            if owner == self.owner:
                self._give_back(*self._changing)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=5.0)
            self._thread = None

    def beat(self) -> None:
        """One heartbeat: touch every lease held, and notice those taken over."""
        with self._lock:
            for task, generation in self._held.items():
                try:
                    if self.path(task, generation + 1).exists():
                        self._lost.add(task)
                    os.utime(self.path(task, generation), follow_symlinks=False)
                except FileNotFoundError:
                    self._lost.add(task)
                except OSError:
                    continue  # a passing fault of the file server; the next beat tries again
                if task in self._told and task not in self._lost:
                    keep_told(self.folder, task, self._told.pop(task))

    def last_generation(self, task: str) -> int:
        """The newest generation of the lease of ``task``, given back or not; -1 if there is none."""
        generation = 0
        while self.path(task, generation).exists():
            generation += 1
        return generation - 1

    def _give_back(self, task: str, generation: int) -> None:
        try:
            os.utime(self.path(task, generation), (0, 0))
        except OSError:
            # somebody else finished the task and cleared its leases; or the disk refuses (read-only, the file server
            # away), which the caller has heard of already: then the lease has to expire
            return

    def _forget(self, task: str) -> int | None:
        with self._lock:  # after this no heartbeat can touch the file again
            self._told.pop(task, None)
            return self._held.pop(task, None)

    def _next_generation(self, task: str) -> int | None:
        last = self.last_generation(task)
        if last >= 0 and not self._over(task, last):
            return None
        return last + 1

    def _over(self, task: str, generation: int) -> bool:
        path = self.path(task, generation)
        try:
            beat = path.stat().st_mtime_ns
            owner = read_owner(path)
        except FileNotFoundError:
            return False  # it changed under our eyes; the next look decides
        if beat == 0 or (owner is not None and owner.gone()):
            return True
        if time.time() - beat * 1e-9 > self.expiry + self.clock_skew:
            return True
        now = time.monotonic()
        known = self._seen.get(task)
        if known is None or known[:2] != (generation, beat):
            self._seen[task] = (generation, beat, now)
            return False
        return now - known[2] > self.expiry

    def _create(self, task: str, generation: int) -> bool:
        return create_exclusive(self.path(task, generation), json.dumps(self.owner.__dict__).encode())

    def _start_heartbeat(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._stop.clear()
            self._thread = threading.Thread(target=self._run, name="ddfast-heartbeat", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.expiry / BEATS_PER_EXPIRY):
            self.beat()


def read_owner(path: Path) -> Owner | None:
    """The owner written in a lease; None if a power cut, or a file system without hard links, left it unwritten."""
    try:
        owner = Owner(**read_json(path, _MAX_BYTES))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError):
        return None
    texts = (owner.machine, owner.started, owner.token)
    if not all(isinstance(text, str) and len(text) <= _MAX_TEXT and text.isprintable() for text in texts):
        return None
    number = isinstance(owner.pid, int) and not isinstance(owner.pid, bool) and 0 < owner.pid < 1 << 31
    return owner if number else None
