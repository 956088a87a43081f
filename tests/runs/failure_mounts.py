"""Small and read-only disks that only one process and its children see; no privileges needed where Linux allows it."""

from __future__ import annotations

import ctypes
import os
import random
import signal
from pathlib import Path
from typing import Any

from tests.runs.failure_driver import attempt, differing, prepare

_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_READ_ONLY, _REMOUNT, _PRIVATE = 1, 32, (1 << 18) | (1 << 14)
_PLENTY = 256 << 20


class NotAllowed(Exception):
    """The system lets this process have no mounts of its own."""


def own_mounts() -> None:
    """From now on mounts of this process, which must have one thread, are its own.

    Raises:
        NotAllowed: the text says what failed.
    """
    user, group, libc = os.getuid(), os.getgid(), ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEWUSER | _NEWNS) != 0:
        raise NotAllowed(f"no user namespace: {os.strerror(ctypes.get_errno())}")
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError as error:
        raise NotAllowed(f"no identity in the user namespace: {error}") from error
    _mount("none", Path("/"), "", _PRIVATE, "")


def disk(folder: Path, size: int, *, again: bool = False, read_only: bool = False) -> None:
    """A disk of ``size`` bytes in ``folder``, or with ``again`` the one that is there with another size or mode."""
    folder.mkdir(exist_ok=True)
    flags = (_REMOUNT if again else 0) | (_READ_ONLY if read_only else 0)
    _mount("tmpfs", folder, "tmpfs", flags, f"size={size}")


def _mount(source: str, target: Path, kind: str, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), str(target).encode(), kind.encode(), flags, options.encode()) != 0:
        raise NotAllowed(f"mount of {target}: {os.strerror(ctypes.get_errno())}")


def filled(name: str, folder: Path, parts: list[float]) -> list[str]:
    """A phase on disks that hold only these parts of what it writes, then on larger ones; what went wrong.

    Raises:
        NotAllowed: no mounts here.
    """
    own_mounts()
    faults = []
    disk(folder / "measured", _PLENTY)
    phase, whole, _, _ = prepare(name, folder / "measured")
    used = sum(path.stat().st_blocks * 512 for path in (folder / "measured" / f"{name}-whole").rglob("*"))
    for number, part in enumerate(parts):
        place, out = folder / f"{number}", folder / f"{number}" / "run"
        disk(place, max(int(part * used), 4096))
        status, words = attempt(phase.run, out, log=folder / f"{number}.txt"), folder / f"{number}.txt"
        if status == 1 and not any(text in _last_line(words) for text in ("disk full", "some space")):
            faults.append(f"{name} with {part:.2f} of {used} bytes: {_last_line(words)}")
        elif status not in (0, 1):
            faults.append(f"{name} with {part:.2f} of {used} bytes ended with {status}")
        disk(place, _PLENTY, again=True)
        faults += [f"{name} with {part:.2f} of {used} bytes, then more: {fault}" for fault in _go_on(phase, out, whole)]
    return faults


def locked(name: str, folder: Path, seed: int) -> list[str]:
    """A phase killed in the middle, gone on with on a disk that became read-only, and then on a writable one again.

    Raises:
        NotAllowed: no mounts here.
    """
    own_mounts()
    place, out, log = folder / "disk", folder / "disk" / "run", folder / "locked.txt"
    phase, whole, _, operations = prepare(name, folder)
    disk(place, _PLENTY)
    at = random.Random(f"{seed} {name}").randrange(operations // 3, operations // 2)
    if attempt(phase.run, out, operation=at, log=folder / "killed.txt") != -signal.SIGKILL:
        return [f"{name} was not killed at file operation {at} of {operations}"]
    disk(place, _PLENTY, again=True, read_only=True)
    status = attempt(phase.run, out, log=log)
    faults = [] if status == 1 and "not allowed" in _last_line(log) else [f"{name}: {status}, {_last_line(log)}"]
    disk(place, _PLENTY, again=True)
    return faults + _go_on(phase, out, whole)


def _go_on(phase: Any, out: Path, whole: dict[str, Any]) -> list[str]:
    log = out.parent.parent / f"{out.parent.name}-again.txt"
    if (status := attempt(phase.run, out, log=log)) != 0:
        return [f"ended with {status}, {_last_line(log)}"]
    return [f"{name} differs" for name in differing(whole, phase.result(out))]


def _last_line(log: Path) -> str:
    return (log.read_text().splitlines() or [""])[-1]
