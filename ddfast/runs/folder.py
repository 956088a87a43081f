"""What may stand in an output folder, and what may be deleted from it."""

from __future__ import annotations

import fnmatch
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddfast._outside import as_text, is_safe_path, read_json
from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.runs.atomic import RunError

RUN_FILE = "run.json"
RECORDS_FILE = "records.json"
TASKS_FOLDER = "tasks"
STATE = (RUN_FILE, RECORDS_FILE, TASKS_FOLDER)
DEFAULT_OUTPUTS = ("[0-9][0-9][0-9][0-9][0-9]", "manifest.json", "*.safetensors", "contact_sheet.png")
_MARKERS = (RUN_FILE, "manifest.json")
_LETTERS = 6


def is_empty(root: Path) -> bool:
    """True if ``root`` does not exist or is a folder without entries, other than a file that is just being written.

    Raises:
        RunError: ``root`` is a file.
    """
    if root.exists() and not root.is_dir():
        raise RunError(f"{root}: is a file, expected a folder (or nothing) to write the run to")
    return not root.exists() or all(entry.name.startswith(TEMPORARY_PREFIX) for entry in root.iterdir())


def make_folder(root: Path) -> None:
    """Make ``root`` and the folders above it, before any long work whose results go there.

    Raises:
        RunError: ``root`` or one above it is a file.
        OSError: it cannot be made.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        file = next((each for each in (root, *root.parents) if each.exists()), root)
        raise RunError(f"{file}: is a file, expected a folder (or nothing) to write to") from None


def read_marker(root: Path) -> dict[str, Any] | None:
    """The contents of ``run.json`` or ``manifest.json`` if it is ddfast's own (its ``format`` says so), else None."""
    for name in _MARKERS:
        try:
            content = read_json(root / name)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError):
            continue
        if isinstance(content, dict) and str(content.get("format", "")).startswith("ddfast."):
            return content
    return None


def clear_folder(root: Path) -> None:
    """Delete an earlier run's files from ``root``, and only those.

    The folder must carry ddfast's ``run.json`` or ``manifest.json``, and every entry in it must be one that a run
    makes; otherwise nothing is deleted at all.

    Raises:
        RunError: the folder is not recognisably ddfast's, or holds other entries too.
    """
    if is_empty(root):
        return
    marker = read_marker(root)
    if marker is None:
        raise RunError(
            f"{root}: not empty, and without a run.json or manifest.json of ddfast, so --overwrite does not touch it. "
            "Choose another output folder, or empty this one yourself."
        )
    outputs = marker.get("outputs", list(DEFAULT_OUTPUTS))
    if not is_outputs(outputs):
        raise RunError(
            f"{root}: its {RUN_FILE} names outputs {as_text(outputs)}, which no ddfast run does. Nothing was deleted; "
            "choose another output folder, or empty this one yourself."
        )
    patterns = (*STATE, f"{TEMPORARY_PREFIX}*", *outputs)
    entries = sorted(root.iterdir())
    foreign = [entry.name for entry in entries if entry.is_symlink() or not _matches(entry.name, patterns)]
    if foreign:
        raise RunError(
            f"{root}: holds entries that no ddfast run made: {', '.join(foreign[:5])}"
            f"{' ...' if len(foreign) > 5 else ''}. Nothing was deleted; move them away or choose another folder."
        )
    # the marker goes last: a deletion cut short is still recognised as ours
    for entry in sorted(entries, key=lambda entry: entry.name in _MARKERS):
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def is_outputs(value: object) -> bool:
    """True for shell patterns of entries of a folder that each say enough to match only what a run makes: a name, one
    with a wildcard and ``_LETTERS`` other characters or more, or digits only."""
    return isinstance(value, (list, tuple)) and len(value) <= 100 and all(map(_is_pattern, value))


def _is_pattern(value: object) -> bool:
    if not is_safe_path(value) or not isinstance(value, str) or "/" in value or value.startswith("."):
        return False
    plain = value.replace("[0-9]", "")
    if not plain:
        return len(value) >= 5 * len("[0-9]")
    return "[" not in plain and (("*" not in plain and "?" not in plain) or len(re.sub(r"[*?]", "", plain)) >= _LETTERS)
