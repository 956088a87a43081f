"""A process that has one revision's ddfast imported and runs cases on demand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.compare.worktrees import Checkout

_SCRIPT = Path(__file__).resolve().parent / "scripts" / "worker.py"


class CompareError(RuntimeError):
    """The comparison cannot be made; the message says why."""


class Worker:
    """``cases`` lists what this revision can run, ``lacking`` the others with the reason."""

    def __init__(self, checkout: Checkout, *, native: bool = True) -> None:
        self.name = checkout.name
        environment = {
            **os.environ,
            "PYTHONPATH": str(checkout.folder),
            "OMP_NUM_THREADS": "1",
            "DDFAST_NATIVE": "1" if native else "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, str(_SCRIPT)],
            cwd=checkout.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the comparison, which then ends its workers
        )
        try:
            ready = self._ask({"do": "prepare"})
        except BaseException:
            self.close()
            raise
        if not Path(ready["package"]).is_relative_to(checkout.folder):
            self.close()
            raise CompareError(f"{self.name}: imported another ddfast than the worktree's")
        self.cases: list[str] = ready["cases"]
        self.lacking: dict[str, str] = ready["lacking"]

    def cpu_seconds(self, case: str, calls: int) -> float:
        """CPU seconds of ``calls`` calls."""
        return float(self._ask({"do": "run", "case": case, "calls": calls})["cpu"])

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError as error:
            raise CompareError(f"{self.name}: its process is gone: {error}") from error
        if not line:
            raise CompareError(
                f"{self.name}: its process ended with code {self._process.wait()}; see its messages above"
            )
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise CompareError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
