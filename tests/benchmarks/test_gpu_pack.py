"""The GPU pack's machinery: no step can hang, kill or fail the others; what ran is in the summary."""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import gpu_pack
from benchmarks.gpu_pack import __main__ as pack
from benchmarks.gpu_pack import machine, parts
from benchmarks.gpu_pack.steps import Outcome, Step, read_outcomes, run_step

PYTHON = sys.executable


def step(code: str, seconds: float = 30, name: str = "step", missing: str = "") -> Step:
    return Step(1, name, (PYTHON, "-c", code), seconds, missing)


def test_outcomes_of_steps(tmp_path: Path) -> None:
    passed = run_step(step("print('all well')"), tmp_path, 60)
    assert (passed.status, passed.detail, passed.returncode) == ("passed", "all well", 0)
    failed = run_step(step("import sys; print('no luck'); sys.exit(3)"), tmp_path, 60)
    assert (failed.status, failed.detail, failed.returncode) == ("failed", "no luck", 3)
    assert run_step(step("", missing="no CUDA device"), tmp_path, 60).detail == "no CUDA device"
    assert run_step(step("", seconds=100), tmp_path, 5).status == "not started"
    absent = run_step(Step(1, "absent", ("no-such-program",), 5), tmp_path, 60)
    assert absent.status == "failed"
    assert "no-such-program" in absent.detail


def test_a_step_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    begin = time.monotonic()
    outcome = run_step(step(code, seconds=2), tmp_path, 60)
    assert outcome.status == "timed out"
    assert outcome.detail.startswith("stopped after 2 s; ")
    assert time.monotonic() - begin < 20
    child = int(outcome.detail.split()[-1])
    for _ in range(50):
        if not _running(child):
            break
        time.sleep(0.1)
    assert not _running(child)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_one_failing_step_does_not_stop_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = [step("raise SystemExit('broken')", name="first"), step("print('fine')", name="second")]
    monkeypatch.setattr(parts, "steps", lambda plan, found: chosen)
    monkeypatch.setattr(parts, "build", lambda plan, found, part: step("print('built')", name="build"))
    monkeypatch.chdir(tmp_path)
    assert pack.main(["--out", str(tmp_path / "out"), "--dry-run"]) == 1
    outcomes = {outcome.name: outcome.status for outcome in read_outcomes(tmp_path / "out")}
    assert outcomes == {"build": "passed", "first": "failed", "second": "passed"}
    text = (tmp_path / "out" / "summary.md").read_text()
    assert "| first | failed |" in text
    assert "Part 4: RDED end to end\n\nnot run yet" in text
    with tarfile.open(tmp_path / "out" / "pack.tar.gz") as bundle:
        assert {"summary.md", "logs/1-second.log", "steps/1-first.json"} <= set(bundle.getnames())
    chosen[0] = step("print('mended')", name="first")
    capsys.readouterr()
    assert pack.main(["--out", str(tmp_path / "out"), "--dry-run", "--resume"]) == 0
    printed = capsys.readouterr().out
    assert "first: passed" in printed
    assert "second" not in printed, "passed before"


def test_refuses_to_run_without_gpu_or_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = machine.Found("", "no CUDA device", "", "", "", True)
    monkeypatch.setattr(machine, "look", lambda: found)
    monkeypatch.chdir(tmp_path)
    assert pack.main(["--out", str(tmp_path)]) == 2
    assert "no CUDA device; --dry-run" in capsys.readouterr().out
    monkeypatch.setattr(machine, "missing_packages", lambda: ["simplejpeg"])
    assert pack.main(["--out", str(tmp_path)]) == 2
    assert "not installed: simplejpeg" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"holds no \.whl files"):
        pack.main(["--out", str(tmp_path), "--wheels", str(tmp_path)])


@pytest.mark.parametrize("dry", [True, False])
def test_every_part_has_steps_that_fit_into_its_time(tmp_path: Path, dry: bool) -> None:
    plan = parts.Plan(PYTHON, Path(gpu_pack.__file__).parents[2], tmp_path, dry, None)
    found = machine.Found("90", "", "", "", "", True)
    planned = [*parts.steps(plan, found), parts.build(plan, found, 1)]
    assert {s.part for s in planned} == set(parts.TITLES)
    assert len({(s.part, s.name) for s in planned}) == len(planned)
    assert all(s.seconds <= 9 * 60 for s in planned)
    for planned_step in planned:
        for argument in planned_step.command:
            if argument.startswith(("tests", "benchmarks/")):
                assert (plan.root / argument).exists(), argument


def test_outcomes_are_read_back_in_order(tmp_path: Path) -> None:
    for outcome in (Outcome(10, "late", "passed", 1.0), Outcome(2, "early", "failed", 2.0, "why", 1)):
        outcome.write(tmp_path)
    assert [outcome.name for outcome in read_outcomes(tmp_path)] == ["early", "late"]
    assert json.loads((tmp_path / "steps" / "2-early.json").read_text())["detail"] == "why"
