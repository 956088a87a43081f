"""Instructions that valgrind's callgrind counts in one call of each C++ kernel, without torch, on the AVX2 code.

Counts repeat to about 0.1 %, so they can be a hard gate on any machine; they say nothing of caches or AVX-512, which
valgrind does not know.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.workers import CompareError
from benchmarks.compare.worktrees import Checkout

_SCRIPT = Path(__file__).resolve().parent / "scripts" / "native_calls.py"
# Calls counted: so many that the start of the process, which is in both counts and varies by some thousand
# instructions, does not show.
OPS = {"multi_crop": 20, "mosaic": 6, "crop_score": 300, "class_topk": 600}


@dataclass(frozen=True)
class Count:
    """Instructions of one call in each revision."""

    op: str
    base: int
    head: int

    @property
    def ratio(self) -> float:
        """HEAD / BASE."""
        return self.head / self.base


def unavailable(base: Checkout, head: Checkout) -> str:
    """Why nothing can be counted; empty when it can."""
    if shutil.which("valgrind") is None:
        return "not available, valgrind is not installed"
    if not base.modules() or not head.modules():
        return "not available, the native modules were not built"
    if base.native_key == head.native_key:
        return "the same, csrc and setup.py do not differ"
    return ""


def count_both(base: Checkout, head: Checkout) -> list[Count]:
    """All ops whose entry both revisions have with the same arguments; others are named on stderr."""
    found = []
    for op in OPS:
        try:
            found.append(Count(op, per_call(base.modules()[0], op), per_call(head.modules()[0], op)))
        except CompareError as error:
            print(f"instruction counts: {op} left out: {error}", file=sys.stderr)
    return found


def per_call(module: Path, op: str) -> int:
    """Instructions of one call.

    Raises:
        CompareError: the module lacks the entry, or valgrind failed.
    """
    return (_collected(module, op, 1 + OPS[op]) - _collected(module, op, 1)) // OPS[op]


def _collected(module: Path, op: str, calls: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-S", "-E"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*command, str(_SCRIPT), str(module), op, str(calls)], env=environment, capture_output=True, text=True
    )
    found = re.search(r"Collected\s*:\s*(\d+)", done.stderr)
    if done.returncode or not found:
        raise CompareError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "valgrind failed")
    return int(found[1])


def table(counts: Sequence[Count], threshold: float) -> str:
    """One line an op."""
    lines = [f"instructions of one call (callgrind, AVX2), allowed {threshold:.2f}"]
    for count in counts:
        verdict = "   MORE" if count.ratio > threshold else ""
        lines.append(f"{count.op:12s} {count.base:12d} {count.head:12d} {count.ratio:7.4f}{verdict}")
    return "\n".join(lines)
