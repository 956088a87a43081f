"""Full and read-only disks under whole phases, and a refusal at every single call that a ledger makes of the system.

Single files on such disks: test_atomic.py.
"""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.runs import Ledger, RunError
from tests.runs.failure_mounts import NotAllowed, filled, locked
from tests.runs.failure_phases import PHASES, contents

CALLS = ("open", "write", "fsync", "link", "replace", "mkdir", "utime", "unlink")
_OPEN = os.open
TASKS = ["a", "b"]


def work(root: Path) -> None:
    """A run of two tasks with two files each."""
    with Ledger.resume(root, TASKS, {}) as ledger:
        for task in ledger.claims():
            with task:
                for name in ("x", "y"):
                    task.write_bytes(f"{task.id}/{name}.bin", f"{task.id} {name}".encode() * 50)
                task.complete({"task": task.id})
        ledger.finish()


class Refusals:
    """Lets the system refuse its ``at``-th call (from 0) of those in ``CALLS``, and all that follow up to ``last``."""

    def __init__(self, patch: pytest.MonkeyPatch, code: int, at: int, last: float, names: tuple[str, ...]) -> None:
        self.code, self.at, self.last, self.count = code, at, last, 0
        for name in names:
            patch.setattr(os, name, self._refusing(getattr(os, name)))

    def _refusing(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if plain is _OPEN and not args[1] & (os.O_WRONLY | os.O_RDWR):  # reading is always allowed
                return plain(*args, **named)
            number, self.count = self.count, self.count + 1
            if self.at <= number <= self.last:
                raise OSError(self.code, os.strerror(self.code))
            return plain(*args, **named)

        return call


def each_refusal(tmp_path: Path, code: int, names: tuple[str, ...], last: float) -> Iterator[tuple[Path, Exception]]:
    """A run with a refusal at each call in turn: its folder, and what it ended with."""
    for at in range(1000):
        root, refused = tmp_path / f"run{at}", None
        with pytest.MonkeyPatch.context() as patch:
            refusals = Refusals(patch, code, at, max(last, at), names)
            try:
                work(root)
            except (RunError, OSError) as error:
                refused = error
        if refused is not None:
            yield root, refused
        if refusals.count <= at:
            return


@pytest.mark.parametrize(("code", "last"), [(errno.ENOSPC, 0), (errno.EDQUOT, math.inf), (errno.EROFS, math.inf)])
def test_a_refusal_at_any_call_is_told_and_leaves_nothing_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, last: float
) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # a true one takes milliseconds
    work(tmp_path / "whole")
    wanted, told = contents(tmp_path / "whole"), 0
    # deleting, and giving a lease back, needs no space
    names = CALLS if code == errno.EROFS else CALLS[:-2]
    for root, error in each_refusal(tmp_path, code, names, last):
        told += isinstance(error, RunError)
        assert isinstance(error, RunError), (root, error)
        assert "--resume" in str(error) or "choose another" in str(error)
        left = [name for name in contents(root) if TEMPORARY_PREFIX in name]
        assert left == [] or code == errno.EROFS  # of which nothing can be removed
        for lease in root.glob("tasks/*.lease-*"):  # its process would have ended by now
            os.utime(lease, (0, 0))
        work(root)
        for name in left:
            (root / name).unlink(missing_ok=True)
        assert contents(root) == wanted
    assert told > 30


def elsewhere(function: Callable[..., list[str]], *args: Any) -> list[str]:
    """The call in a process of its own that has imported what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.runs.failure_driver", "torch._dynamo"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        try:
            return pool.submit(function, *args).result()
        except NotAllowed as reason:
            pytest.skip(str(reason))


@pytest.mark.parametrize("name", ["relabel", "experts"])
def test_full_disk(name: str, tmp_path: Path) -> None:
    assert elsewhere(filled, name, tmp_path, [0.3, 0.9]) == []


def test_read_only_disk(tmp_path: Path) -> None:
    assert elsewhere(locked, "idc", tmp_path, 0) == []


@pytest.mark.nightly
@pytest.mark.parametrize("name", sorted(PHASES.keys() - {"rded-parity"}))  # which reads its pictures from that disk
def test_full_and_read_only_disks_in_every_phase(name: str, tmp_path: Path) -> None:
    for folder in ("full", "locked"):
        (tmp_path / folder).mkdir()
    assert elsewhere(filled, name, tmp_path / "full", [0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0]) == []
    assert elsewhere(locked, name, tmp_path / "locked", 0) == []
