"""Names of files and folders that are being written, from which others can tell whether their writer still lives."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import socket
from functools import cache
from pathlib import Path

TEMPORARY_PREFIX = ".ddfast-tmp-"
_NAME = re.compile(re.escape(TEMPORARY_PREFIX) + r"([0-9a-f]{8})\.(\d{1,10})\.(\d{0,20})\.[0-9a-f]{8}-")


def temporary_name(name: str) -> str:
    """A fresh name for what will be called ``name``: it begins with `TEMPORARY_PREFIX` and says who writes it."""
    pid = os.getpid()
    writer = f"{_short(machine())}.{pid}.{process_start(pid)}"
    return f"{TEMPORARY_PREFIX}{writer}.{secrets.token_hex(4)}-{name}"


def abandoned(name: str) -> bool:
    """True if the writer of a temporary certainly ended; False if it lives or cannot be seen from here."""
    match = _NAME.match(name)
    return match is not None and match[1] == _short(machine()) and ended(int(match[2]), match[3])


def ended(pid: int, started: str) -> bool:
    """True if the process of this machine with this number and start certainly ended."""
    if os.name != "posix":  # elsewhere signal 0 is not a mere question
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return started != process_start(pid)


def machine() -> str:
    """Host name, boot and process namespace: only within one of these a process number means the same process."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:
        parts.append("")  # no Linux: host name alone
    return "/".join(parts)


def process_start(pid: int) -> str:
    """When a process started (Linux clock ticks since boot), which tells a reused process number; else empty.

    A process that ended but was not yet waited for by its parent counts as ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]


@cache
def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
