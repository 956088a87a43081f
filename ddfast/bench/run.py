"""``ddfast bench``: this machine, what ddfast reaches on it, how far that is from its limit, and from plain torch."""

from __future__ import annotations

import datetime
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from ddfast import _machine
from ddfast.bench import ceilings, figure, machine
from ddfast.bench.cases import Case, Setting, Spec, specs
from ddfast.bench.floor import floor_of
from ddfast.bench.results import Result, wrong
from ddfast.bench.table import describe, table
from ddfast.bench.timing import cpu_turns, cuda_turns, one_thread
from ddfast.runs import atomic_write_bytes
from ddfast.runs.folder import make_folder

BUDGET, QUICK_BUDGET = 5.0, 0.4  # seconds of timed rounds a case
_ERRORS = (ValueError, TypeError, RuntimeError, OSError, ImportError, NotImplementedError)


@dataclass
class Bench:
    """What is known so far; written to ``out/bench.json`` after every case."""

    out: Path
    quick: bool
    ceilings: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def document(self, finished: bool) -> dict[str, Any]:
        """The content of the file."""
        return {
            "schema_version": 1,
            "created": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "finished": finished,
            "quick": self.quick,
            "machine": machine.describe(),
            "versions": machine.versions(),
            "ceilings": self.ceilings,
            "cases": [result.as_dict() for result in self.results],
        }

    def save(self, finished: bool = False) -> Path:
        """Writes the file in one step; a number that JSON has not (an infinite error) becomes a text."""
        path = self.out / "bench.json"
        text = json.dumps(_plain(self.document(finished)), indent=1, allow_nan=False)
        atomic_write_bytes(path, (text + "\n").encode())
        return path


def run_bench(out: Path, *, quick: bool = False, device: str = "auto", quiet: bool = False) -> int:
    """Checks and measures every case, prints a table and writes ``bench.json`` and ``bench.png`` to ``out``.

    Args:
        out: folder, made if it is not there; an earlier result in it is replaced.
        quick: fewer items and rounds, under half a minute; for a look, not for figures to quote.
        device: ``cpu``, ``cuda``, or ``auto``: the CPU, and the GPU where there is one.
        quiet: say nothing on standard error.

    Returns:
        0, or 1 when a case gave a wrong result or could not be run.

    Raises:
        ValueError: unknown device, or CUDA asked for where there is none.
        OSError, RunError: ``out`` cannot be a folder.
    """
    devices, began = _devices(device), time.perf_counter()
    make_folder(out)
    bench, say = Bench(out, quick), _nothing if quiet else _say
    say(describe(machine.describe(), machine.versions()))
    if (load := os.getloadavg()[0]) > _machine.cores() / 2:
        say(f"this machine is busy (load {load:.1f}): the wall time of RDED suffers, CPU times hardly")
    planned = [spec for name in devices for spec in specs(name)]
    try:
        _measure(bench, planned, devices, say)
    except KeyboardInterrupt:
        print(table(bench.results))
        _say(f"interrupted: {len(bench.results)} of {len(planned)} cases are in {bench.save()}")
        raise
    path = bench.save(finished=True)
    print(table(bench.results))
    say(f"wrote {path}{_draw(bench)} ({time.perf_counter() - began:.0f} s in all)")
    return int(any(result.failed for result in bench.results))


def _measure(bench: Bench, planned: list[Spec], devices: list[str], say: Callable[[str], None]) -> None:
    say(f"[0/{len(planned)}] ceilings: matrix products, copies, JPEG decoding")
    found = asdict(ceilings.measure())
    bench.ceilings = {**found, "gpu": ceilings.gpu_ceilings() if "cuda" in devices else None}
    bench.save()
    with tempfile.TemporaryDirectory(prefix="ddfast-bench-") as folder:
        for number, spec in enumerate(planned, 1):
            say(f"[{number}/{len(planned)}] {spec.name} on {spec.device}: checked, then measured")
            seconds = QUICK_BUDGET if bench.quick else BUDGET
            setting = Setting(bench.quick, seconds, Path(folder), spec.device)
            bench.results.append(measure_case(spec, setting, bench.ceilings))
            bench.save()


def measure_case(spec: Spec, setting: Setting, found: dict[str, Any]) -> Result:
    """Never raises for what a case does: a wrong result or an error is its reason."""
    try:
        if spec.whole:
            return spec.whole(setting, found)
        if spec.build is None:
            raise ValueError(f"spec {spec.name}: got neither build nor whole, expected one of them")
        with one_thread():
            return _checked_and_timed(spec, spec.build(setting), setting, found)
    except _ERRORS as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        return Result(spec.name, spec.device, reason=f"{type(error).__name__}: {lines[0][:300]}")


def _checked_and_timed(spec: Spec, case: Case, setting: Setting, found: dict[str, Any]) -> Result:
    cost = case.work
    made: dict[str, Any] = {"shape": case.shape, "rival": case.rival_name, "items": cost.items, "unit": cost.unit}
    check = case.check(case.ours())
    if not check.passed:
        return Result(spec.name, spec.device, reason=wrong("ddfast", check), check=check, **made)
    theirs = case.check_rival(case.rival())
    if not theirs.passed:
        return Result(spec.name, spec.device, reason=wrong("the rival", theirs), check=theirs, **made)
    turns = (cuda_turns if spec.device == "cuda" else cpu_turns)(case.ours, case.rival, setting.seconds)
    return Result(
        spec.name, spec.device, check=check, seconds=turns.ours.median, rival_seconds=turns.rival.median,
        over=turns.ratio, floor=floor_of(cost, found, spec.device), note=case.note, **made,
    )  # fmt: skip


def _devices(device: str) -> list[str]:
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: got {device!r}, expected auto, cpu or cuda")
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise ValueError("device: got 'cuda', but PyTorch sees no CUDA device here; give cpu or auto")
    return [device] if device != "auto" else ["cpu", "cuda"] if there else ["cpu"]


def _draw(bench: Bench) -> str:
    path = bench.out / "bench.png"
    here = machine.describe()
    gpu = here["gpu"]
    name = f"{here['cpu']}, {here['cores']} cores" + (f", {gpu['name']}" if gpu else "")
    try:
        figure.draw(bench.results, name, path)
    except ImportError:
        return "; no figure without matplotlib: pip install 'ddfast[plots]'"
    except ValueError as error:
        return f"; no figure: {error}"
    return f" and {path}"


def _plain(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) < float("inf") else str(value)
    return value


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _nothing(text: str) -> None:
    return None
