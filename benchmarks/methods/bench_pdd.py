"""PDD over MTT, the whole pipeline, one core, real CIFAR-10 pictures: experts, three stages, transitions, tests.

    taskset -c 0 pytest benchmarks/methods/bench_pdd.py --benchmark-enable --benchmark-only --bench-size full

Both sides go from the same pictures and draws to the same images, checked before anything is reported. Times are CPU
seconds of one run each, by part in the notes; ddfast's hold everything that ``ddfast.distill`` does, with checkpoints,
pictures and manifest. The transcription runs with the allocator's thresholds raised, as ddfast does for the process;
its notes say how long it takes in a process of its own without that, as the authors' programs run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import pdd_pair as pair
from benchmarks.records import Labels
from benchmarks.train.bench_trajectory import DATA
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check

PARTS = ("experts", "matching", "transitions", "tests")
# 1 - cosine between the moves of a stage's images; networks that are trained in float32 part slowly
BOUNDS = (0.02, 0.2, 0.3)
pytestmark = pytest.mark.usefixtures("one_thread")


class Both:
    """The setting, and each side's last run."""

    def __init__(self, size: str, folder: Path) -> None:
        self.size, self.pipeline, self._folder = size, pair.Pipeline(DATA, size), folder
        self._theirs: pair.Timed | None = None

    def run_theirs(self) -> pair.Timed:
        """Anew."""
        self._theirs = self.pipeline.theirs()
        return self._theirs

    @property
    def theirs(self) -> pair.Timed:
        """The last run, or the first."""
        return self._theirs or self.run_theirs()

    def run_ours(self) -> pair.Timed:
        """Anew."""
        return self.pipeline.ours(Path(tempfile.mkdtemp(dir=self._folder)) / "out")

    def plain(self) -> float:
        """CPU seconds of the transcription with malloc as it comes, in a process of its own."""
        code = (
            "import json, sys, torch\n"
            "torch.set_num_threads(1)\n"
            "from benchmarks.methods import pdd_pair\n"
            "from benchmarks.train.bench_trajectory import DATA\n"
            "print(json.dumps(pdd_pair.Pipeline(DATA, sys.argv[1]).theirs().cpu))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, self.size], capture_output=True, text=True, check=True,
            env={**os.environ, "DDFAST_MALLOC": "0"}, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        return float(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def both(bench_size: str, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(bench_size, tmp_path_factory.mktemp("pdd"))


def test_transcription(case: Any, both: Both, bench_size: str) -> None:
    """The definition itself: all that can be wrong is that a part did not run."""

    def notes() -> dict[str, float]:
        plain = {"plain_malloc_cpu_s": both.plain()} if bench_size == "full" else {}
        return {**_parts(both.theirs), **plain}

    case(
        both.run_theirs,
        labels=_labels(both, "transcription", package("torch")),
        work=Work(1, "run", flops=both.pipeline.flops(), precision="fp32"),
        check=lambda run: Check("parts without time", sum(not run.timings.of(part)[1] for part in PARTS), 0),
        rounds=1,
        warmup=False,
        notes=notes,
    )


def test_ddfast(case: Any, both: Both, report_line: Callable[[str], None]) -> None:
    runs: list[pair.Timed] = []

    def run() -> pair.Timed:
        runs.append(both.run_ours())
        return runs[-1]

    def check(ours: pair.Timed) -> Check:
        away = pair.difference(ours, both.theirs)
        worst = max(each / bound for each, bound in zip(away, BOUNDS, strict=True))
        return Check("1 - cosine of the two moves of a stage's images, of what is allowed", worst, 1)

    def notes() -> dict[str, float]:
        ours, theirs = runs[-1], both.theirs
        ratios = {part: theirs.timings.of(part)[1] / ours.timings.of(part)[1] for part in PARTS}
        text = ", ".join(f"{part} {ratio:.2f}x" for part, ratio in ratios.items())
        report_line(f"PDD: {theirs.cpu:.1f} -> {ours.cpu:.1f} s CPU ({theirs.cpu / ours.cpu:.2f}x: {text})")
        found = {f"{part}_speedup_cpu": ratio for part, ratio in ratios.items()}
        return {**_parts(ours), **found, "speedup_cpu": theirs.cpu / ours.cpu}

    case(
        run,
        labels=_labels(both, "ddfast", None),
        work=Work(1, "run", flops=both.pipeline.flops(), precision="fp32"),
        check=check,
        rounds=1,
        warmup=False,
        notes=notes,
    )


def _labels(both: Both, name: str, baseline: str | None) -> Labels:
    pipeline = both.pipeline
    shape = (
        f"{pair.STAGES} stages of {pair.CLASSES} images, {pipeline.experts} experts, "
        f"{pipeline.per_class * pair.CLASSES} pictures, width {pipeline.width}"
    )
    return Labels("PDD over MTT, whole pipeline", name, "pdd", shape, "float32", name, baseline, "cpu")


def _parts(run: pair.Timed) -> dict[str, float]:
    return {f"{part}_{kind}_s": run.timings.of(part)[k] for part in PARTS for k, kind in enumerate(("wall", "cpu"))}
