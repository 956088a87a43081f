"""A run that is killed outright, again and again, ends in the report of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddfast.evaluation import read_report
from tests.evaluation import eval_worker
from tests.evaluation.eval_case import settled

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_kill_and_resume_end_in_the_same_report(tmp_path: Path) -> None:
    eval_worker.main(str(tmp_path / "whole"))
    out = tmp_path / "cut"
    command = [sys.executable, "-m", "tests.evaluation.eval_worker", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for finished in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT, env=environment)
        limit = time.monotonic() + 120
        while len(list(out.glob("tasks/*.done.json"))) < finished and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "report.json").exists()
    assert subprocess.run(command, cwd=ROOT, env=environment, check=True).returncode == 0
    assert settled(read_report(out)) == settled(read_report(tmp_path / "whole"))
    assert not (out / "checkpoints").exists()
