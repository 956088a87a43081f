"""Runs a fuzzer: copies a valid folder, does the damage, and has a child process read what is left."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, settings
from hypothesis.strategies import SearchStrategy

from tests.fuzz.fuzz_seeds import SEEDS

CORPUS = Path(__file__).parent / "corpus"
ROOT = Path(__file__).resolve().parents[2]
_SECONDS = 60.0  # for one case, on a machine that does other things
_BATCH = 200
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DDFAST_MAX_IMAGE_PIXELS": "16000000"}
_QUIET = tuple(HealthCheck)


class Child:
    """The reading process, started anew when it dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, target: str, folder: Path, links: bool) -> dict[str, str]:
        """What came of a case: "ok", "refused" or "bug"."""
        process = self._started()
        assert process.stdin is not None
        process.stdin.write(json.dumps({"target": target, "folder": str(folder), "links": links}) + "\n")
        process.stdin.flush()
        line = self._line(_SECONDS)
        if line:
            answer: dict[str, str] = json.loads(line)
            return answer
        self.stop()
        return {
            "outcome": "bug",
            "text": f"no answer in {_SECONDS:g} s, or the process died",
        }

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).parent / "fuzz_child.py")], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **_ENVIRONMENT},
            )  # fmt: skip
            if self._line(120) != "ready\n":
                raise RuntimeError("the reading process did not start")
        return self._process

    def _line(self, seconds: float) -> str:
        """The next answer; nothing if none comes in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else ""


@dataclass
class Fuzzer:
    """Cases of one kind: see `run`."""

    place: Path
    child: Child
    minutes: float
    counts: dict[str, int] = field(default_factory=lambda: {"ok": 0, "refused": 0, "bug": 0})
    bugs: dict[str, str] = field(default_factory=dict)
    _seeds: dict[str, Path] = field(default_factory=dict)

    def run(self, cases: SearchStrategy[Any], execute: Callable[[Any], None], examples: int = 40) -> None:
        """A few cases, always the same ones; or as many different ones as fit in ``--fuzz-minutes``."""
        if self.minutes <= 0:
            quick = settings(
                max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=_QUIET
            )
            quick(hypothesis.given(cases)(execute))()
            return
        end = time.monotonic() + 60 * self.minutes
        while time.monotonic() < end:
            long = settings(
                max_examples=_BATCH, deadline=None, database=None, suppress_health_check=_QUIET,
                phases=(Phase.generate,),
            )  # fmt: skip
            hypothesis.seed(random.getrandbits(64))(long(hypothesis.given(cases)(execute)))()
        total = sum(self.counts.values())
        print(f"\n{self.place.name}: {self.minutes:g} minutes, {total} examples {self.counts}, {len(self.bugs)} bugs")
        assert not self.bugs, "\n\n".join(self.bugs.values())

    def case(self, target: str, seed: str, damage: Callable[[Path], None], *, links: bool = False) -> None:
        """One case; AssertionError for a bug, which in a long run is kept for its end."""
        folder = self.fresh(seed)
        damage(folder)
        answer = self.child.run(target, folder, links)
        self.counts[answer["outcome"]] += 1
        if answer["outcome"] == "bug" and self.minutes <= 0:
            raise AssertionError(answer["text"])
        if answer["outcome"] == "bug":
            self._found(answer["text"], seed, damage)
        assert self.precious() == _PRECIOUS, "files outside of the folder were changed"

    def fresh(self, seed: str) -> Path:
        """A copy of a valid folder, with files beside it that must not be touched."""
        if seed not in self._seeds:
            made = self.place / "seeds" / seed
            made.parent.mkdir(parents=True, exist_ok=True)
            SEEDS[seed](made)
            self._seeds[seed] = made
        top = self.place / "case"
        shutil.rmtree(top, ignore_errors=True)
        (top / "precious").mkdir(parents=True)
        for name, text in _PRECIOUS.items():
            (top / "precious" / name).write_text(text)
        shutil.copytree(self._seeds[seed], top / "precious" / "copy", symlinks=True)
        shutil.copytree(self._seeds[seed], top / "folder", symlinks=True)
        return top / "folder"

    def precious(self) -> dict[str, str]:
        """What lies beside the folder."""
        return {path.name: path.read_text() for path in (self.place / "case/precious").iterdir() if path.is_file()}

    def _found(self, text: str, seed: str, damage: Callable[[Path], None]) -> None:
        last = re.sub(r"\d+|'[^']*'", "#", text.strip().splitlines()[-1][:120])
        frames = re.findall(r'File "[^"]*/(\w+\.py)", line (\d+)', text)[-2:]
        key = hashlib.sha256(f"{frames}{last[:30] if frames else last}".encode()).hexdigest()[:10]
        if key in self.bugs:
            return
        self.bugs[key] = f"{self.place / ('bug-' + key)}:\n{text[-3000:]}"
        folder = self.fresh(seed)
        damage(folder)
        folder.rename(self.place / f"bug-{key}")
        print(f"\n{self.bugs[key]}", flush=True)


_PRECIOUS = {"a.txt": "keep me", "task-00000.done.json": "{}", "run.json": "{}"}
