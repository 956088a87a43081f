"""The fixture every benchmark uses, in a pytest run of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import case as plugin
from benchmarks import records

ROOT = Path(__file__).resolve().parents[2]
BENCH = """
import time
import torch
from ddfast.bench.floor import Work
from benchmarks.records import Labels
from ddfast.bench.measured import Check

x = torch.randn(64, 1000)

def labels(name, **more):
    return Labels("softmax", name, "softmax", "64x1000", "float32", name, **more)

def run(case, name, error, **more):
    work = Work(64, "row", bytes=2 * x.numel() * 4, flops=16 * x.numel())
    ddfast = more.pop("ddfast", None)
    return case(lambda: x.softmax(1), labels=labels(name, **more), work=work,
                check=lambda out: Check("error", error, 1e-6), ddfast=ddfast)

def test_good(case):
    run(case, "ours", 0.0)

def test_baseline(case):
    run(case, "theirs", 0.0, baseline="torch 2", ddfast=lambda: x.softmax(1))

def test_wrong(case):
    run(case, "wrong", 1.0)

def test_busy_and_sleeping(case):
    def work():
        time.sleep(0.03)
        end = time.process_time() + 0.01
        while time.process_time() < end:
            pass
    case(work, labels=labels("sleeper"), work=Work(1, "nap", bytes=1), check=lambda _: Check("none", 0, 0), rounds=3)
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "bench_softmax.py").write_text(BENCH)
    # one thread: a softmax this small mostly waits for a second one on a busy machine
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    environment = {**own, "PYTHONPATH": str(ROOT), "DDFAST_TEST_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-p", "benchmarks.case", "-q", "bench_softmax.py", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run")
    run = run_pytest(folder, "--benchmark-enable", "--bench-out", "out")
    (path,) = (folder / "out").glob("*/softmax.json")
    return run, json.loads(path.read_text())


def test_a_case_that_fails_its_check_reports_nothing(finished: Any) -> None:
    run, content = finished
    assert run.returncode == 1
    assert "1 failed, 3 passed" in run.stdout
    assert "wrong: error 1, allowed 1e-06; not reported" in run.stdout
    assert [each["name"] for each in content["records"]] == ["ours", "theirs", "sleeper"]


def test_file_fits_the_schema_and_has_ceilings(finished: Any) -> None:
    _, content = finished
    records.validate(content)
    ours, theirs, _ = content["records"]
    assert content["ceilings"]["fp32_flops"] > 1e9
    assert ours["limit"]["seconds"] > 0
    assert ours["x_of_limit"] > 0.5, "nothing runs much faster than the floor"
    assert ours["iterations"] > 1
    assert ours["over_ddfast"] is None
    assert 0.5 < theirs["over_ddfast"]["median"] < 2, "the same function is as fast as itself"


def test_cpu_time_leaves_waiting_out(finished: Any) -> None:
    sleeper = finished[1]["records"][2]
    assert sleeper["rounds"] == 3
    assert 0.01 <= sleeper["cpu_s"]["median"] < 0.025
    assert sleeper["wall_s"]["median"] >= 0.04


def test_lines_are_printed(finished: Any) -> None:
    out = finished[0].stdout
    for part in ("softmax, 64x1000:", "GFLOP/s", "x of the limit", "x ddfast's time", "wrote "):
        assert part in out


def test_switched_off_still_checks(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "--benchmark-disable", "--bench-out", "out", "-k", "good or wrong")
    assert "1 failed, 1 passed" in run.stdout
    assert not (tmp_path / "out").exists()


def test_plan_fills_the_time_of_a_case() -> None:
    assert plugin._plan(1e-6, "smoke") == (5, 1000)
    assert plugin._plan(10.0, "smoke") == (plugin.FEWEST["smoke"], 1)
    rounds, iterations = plugin._plan(0.1, "medium")
    assert (rounds, iterations) == (15, 1)
