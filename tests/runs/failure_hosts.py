"""Processes that play machines of their own: with other clocks, or behind a network file system that tells late."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddfast.runs import Ledger, lease, seeds

TASKS = [f"task-{number:03d}" for number in range(24)]


def result(task: str) -> bytes:
    """What a task computes: a pure function of its id."""
    return seeds.counter_words(3, "result", TASKS.index(task), range(64), words=4).tobytes()


class Hosts:
    """Forks of this process that are gone when the test ends; each runs one function."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[int] = []

    def start(self, name: str, work: Callable[..., None], *args: Any, **named: Any) -> int:
        """``work(*args)`` on a machine called ``name``; ``named`` goes to `play_host`."""
        child = os.fork()
        if child == 0:
            status = 1
            try:
                play_host(name, **named)
                work(*args)
                status = 0
            except BaseException:
                (self.folder / f"{name}.txt").write_text(traceback.format_exc())
            finally:
                os._exit(status)
        self.children.append(child)
        return child

    def wait(self, seconds: float = 60.0) -> None:
        """All have ended well."""
        limit = time.monotonic() + seconds
        while self.children:
            done, status = os.waitpid(self.children[0], os.WNOHANG)
            if not done:
                assert time.monotonic() < limit, "hosts still at work"
                time.sleep(0.01)
                continue
            self.children.pop(0)
            assert os.waitstatus_to_exitcode(status) == 0, [path.read_text() for path in self.folder.glob("*.txt")]

    def end(self) -> None:
        for child in self.children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def play_host(name: str, *, ahead: float = 0.0, cached: float = 0.0) -> None:
    """From now on this process is on a machine called ``name``, for good.

    Args:
        name: of the machine; processes of others cannot be seen from it.
        ahead: seconds by which its clock is ahead; its heartbeats too carry its own time.
        cached: seconds for which its view of files that others make, change or remove is old.
    """
    lease.machine = lambda: name  # type: ignore[assignment]
    if ahead:
        clock, touch = time.time, os.utime
        time.time = lambda: clock() + ahead

        def utime(path: Any, times: Any = None, **named: Any) -> None:
            touch(path, times or (time.time(), time.time()), **named)

        os.utime = utime  # type: ignore[assignment]
    if cached:
        AttributeCache(cached)


class AttributeCache:
    """What an NFS client does: attributes, names that do not exist and listings are believed for a while.

    Exclusive creation, links and renames are asked of the server. What this client itself does to a name it knows at
    once; opening a file asks for nothing anew, as where it is mounted with ``nocto``.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.known: dict[tuple[str, str], tuple[float, Any]] = {}
        self.stat, self.listdir, self.open = os.stat, os.listdir, os.open
        os.stat = self._remembering("stat", os.stat)  # type: ignore[assignment]
        os.listdir = self._remembering("listdir", os.listdir)  # type: ignore[assignment]
        os.open = self._open  # type: ignore[assignment]
        for name, places in (("link", 2), ("replace", 2), ("rename", 2), ("utime", 1), ("unlink", 1), ("mkdir", 1)):
            setattr(os, name, self._own(getattr(os, name), places))

    def _remembering(self, kind: str, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **named: Any) -> Any:
            if isinstance(path, int) or named.get("dir_fd") is not None:
                return plain(path, *args, **named)
            key = (kind, os.fspath(path))
            when, answer = self.known.get(key, (-1.0, None))
            if time.monotonic() - when > self.seconds:
                try:
                    answer = plain(path, *args, **named)
                except FileNotFoundError as error:
                    answer = error
                self.known[key] = (time.monotonic(), answer)
            if isinstance(answer, FileNotFoundError):
                raise FileNotFoundError(*answer.args)
            return answer

        return call

    def _open(self, path: Any, flags: int, *args: Any, **named: Any) -> int:
        missing = isinstance(self.known.get(("stat", os.fspath(path)), (0, None))[1], FileNotFoundError)
        if not flags & os.O_CREAT and missing:
            os.stat(path)  # raises while that is believed
        if flags & os.O_CREAT:
            self.known.pop(("stat", os.fspath(path)), None)
        return self.open(path, flags, *args, **named)

    def _own(self, plain: Callable[..., Any], places: int) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            for path in args[:places]:
                self.known.pop(("stat", os.fspath(path)), None)
                self.known.pop(("listdir", os.path.dirname(os.fspath(path))), None)
            return plain(*args, **named)

        return call


def work(root: Path, log: Path, expiry: float, seconds: Sequence[float], poll: float = 0.02) -> None:
    """A worker: takes tasks until all are done; ``seconds`` are the times they take, in turn."""
    with Ledger.resume(root, TASKS, {}, expiry=expiry) as ledger:
        for task in ledger.claims(poll=poll):
            with task:
                place = TASKS.index(task.id)
                task.write_bytes(f"{place:05d}/data.bin", result(task.id))
                time.sleep(seconds[place % len(seconds)])
                stands = task.complete({"place": place})
                note(log, f"{task.id} {task.attempt} {int(stands)}")
        ledger.finish()


def note(log: Path, text: str) -> None:
    """Appends a line, whole also when others do the same."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.write(handle, f"{text}\n".encode())
    os.close(handle)


def check(root: Path) -> None:
    """The run is finished and right, and nothing else is left in its folder."""
    for place, task in enumerate(TASKS):
        assert (root / f"{place:05d}" / "data.bin").read_bytes() == result(task)
    assert sorted(os.listdir(root)) == [*(f"{place:05d}" for place in range(len(TASKS))), "records.json", "run.json"]
    with Ledger.resume(root, TASKS, {}, verify=True) as ledger:
        assert ledger.finished()
