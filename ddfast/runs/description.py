"""``run.json``: what a run is, and whether what is asked for now is the same run."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfast._outside import as_text, read_json
from ddfast.runs.atomic import RunError
from ddfast.runs.config import canonical, differences, fingerprint
from ddfast.runs.folder import RUN_FILE, TASKS_FOLDER, read_marker

RUN_FORMAT = "ddfast.run"
RUN_VERSION = 1
_TASK_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")


def describe(tasks: Sequence[str], config: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """The contents of ``run.json``.

    Raises:
        ValueError: a task id is malformed or occurs twice, or a number in ``config`` is not finite.
        TypeError: ``config`` is not JSON.
    """
    for task in tasks:
        if not isinstance(task, str) or not _TASK_ID.fullmatch(task):
            raise ValueError(
                f"tasks: got {task!r}, expected up to 100 letters, digits, _ and -, beginning with no sign"
            )
    if len(set(tasks)) != len(tasks):
        twice = next(task for index, task in enumerate(tasks) if task in tasks[:index])
        raise ValueError(f"tasks: {twice!r} occurs more than once")
    return {
        "format": RUN_FORMAT,
        "version": RUN_VERSION,
        "fingerprint": fingerprint(config),
        "config": canonical(config),
        "outputs": list(outputs),
        "tasks": list(tasks),
    }


def as_bytes(content: Mapping[str, Any]) -> bytes:
    """JSON text, indented, with sorted keys and a final newline."""
    return (json.dumps(content, allow_nan=False, indent=1, sort_keys=True) + "\n").encode()


def read_run(root: Path) -> dict[str, Any]:
    """``run.json`` of a folder.

    Raises:
        RunError: it is damaged, of another program, or of a newer version.
    """
    path = root / RUN_FILE
    try:
        content = read_json(path)
    except ValueError as error:
        raise RunError(f"{path}: damaged ({error}); start anew with --overwrite or choose another folder") from None
    if not isinstance(content, dict) or content.get("format") != RUN_FORMAT:
        raise RunError(f"{path}: not a ddfast run; choose another output folder")
    if content.get("version") != RUN_VERSION:
        raise RunError(
            f"{path}: written by another version of ddfast (run version {content.get('version')!r}, "
            f"this one knows {RUN_VERSION}); finish it with that version or start anew with --overwrite"
        )
    wrong = _wrong(content)
    if wrong:
        raise RunError(f"{path}: damaged ({wrong}); start anew with --overwrite or choose another folder")
    if (root / TASKS_FOLDER).is_symlink():
        raise RunError(f"{root / TASKS_FOLDER}: is a link, expected a folder of this run; remove the link")
    return content


def _wrong(run: Mapping[str, Any]) -> str:
    """What does not fit in a run's description, or nothing: its tasks become names of files."""
    tasks, outputs = run.get("tasks"), run.get("outputs")
    if not isinstance(tasks, list):
        return f"tasks: got {as_text(tasks)}, expected a list"
    for task in tasks:
        if not isinstance(task, str) or not _TASK_ID.fullmatch(task):
            return f"tasks: got {as_text(task)}, expected up to 100 letters, digits, _ and -"
    if len(set(tasks)) != len(tasks):
        return "tasks: one occurs more than once"
    if not isinstance(run.get("config"), dict):
        return f"config: got {as_text(run.get('config'))}, expected a mapping"
    if not isinstance(outputs, list) or not all(isinstance(pattern, str) for pattern in outputs):
        return f"outputs: got {as_text(outputs)}, expected a list of patterns"
    return ""


def check_same(root: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Raise RunError, naming each differing key, if two run descriptions are not of one run."""
    lines = differences(there["config"], here["config"])
    if there["tasks"] != here["tasks"]:
        lines.append(f"tasks: the run has {len(there['tasks'])}, you ask for {_task_change(there, here)}")
    if lines:
        raise RunError(
            f"{root}: holds a run with another configuration, which cannot be resumed with this one:\n  "
            + "\n  ".join(lines)
            + "\nAsk for the same configuration, start anew with --overwrite, or choose another output folder."
        )


def refusal(root: Path, here: Mapping[str, Any]) -> str:
    """Why a new run cannot start in a folder that is not empty, and what to do."""
    if (root / RUN_FILE).exists():
        there = read_run(root)
        check_same(root, there, here)
        return (
            f"{root}: this run was started here before. Go on with --resume (finished tasks are kept), "
            "or start anew with --overwrite."
        )
    if read_marker(root) is not None:
        return f"{root}: holds a distilled set already. Replace it with --overwrite, or choose another output folder."
    return f"{root}: not empty, and nothing in it is from ddfast. Choose another output folder, or empty this one."


def _task_change(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    old, new = there["tasks"], here["tasks"]
    if len(old) != len(new):
        return str(len(new))
    index = next(i for i, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
    return f"others (number {index} is {new[index]!r} instead of {old[index]!r})"
