"""How far a task is, in its worker's words: ``tasks/<task>.told.json``, renewed with the heartbeat until it is done.

For people only, who look by `ddfast.runs.lookout`; nothing is decided by it.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from ddfast._outside import read_json
from ddfast._printable import printable
from ddfast.runs.atomic import RunError, discard, stage_bytes

_LONGEST = 300  # characters
_MAX_BYTES = 1 << 14


def told_path(folder: Path, task: str) -> Path:
    """The file of one task."""
    return folder / f"{task}.told.json"


def keep_told(folder: Path, task: str, text: str) -> None:
    """Write the words, not flushed to the disk; where that fails (a full disk, the run over) there are none."""
    path = told_path(folder, task)
    with contextlib.suppress(RunError, OSError):
        staged = stage_bytes(path, json.dumps({"text": text[:_LONGEST]}).encode(), folders=False)
        try:
            os.replace(staged, path)
        finally:
            discard([staged])


def read_told(path: Path) -> str:
    """The words in a file, on one line; "" if it is gone or damaged."""
    try:
        text = read_json(path, _MAX_BYTES)["text"]
    except (OSError, ValueError, TypeError, KeyError):
        return ""
    return printable(text[:_LONGEST], lines=False) if isinstance(text, str) else ""
