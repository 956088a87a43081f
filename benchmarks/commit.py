"""Which revision of the repository is measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def commit() -> str:
    """Short hash of HEAD, with ``-dirty`` when tracked files differ; ``unknown`` outside a repository."""
    try:
        head = _git("rev-parse", "--short=10", "HEAD")
        dirty = _git("status", "--porcelain", "--untracked-files=no", "--", "ddfast", "csrc", "benchmarks", "setup.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    changed = [line for line in dirty.splitlines() if "benchmarks/results/" not in line]
    return f"{head}-dirty" if changed else head


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout.strip()
