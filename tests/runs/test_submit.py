"""Many jobs of one command: through submitit's local executor, and what the command line hands to it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger_worker as helper

from ddfast.cli import main
from ddfast.runs import submit as module
from ddfast.runs.lookout import Lookout
from ddfast.runs.submit import RunCommand, submit, wait


def test_local_jobs_share_a_run(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    root = tmp_path / "run"
    command = [sys.executable, helper.__file__, str(root), "12", "600", "work"]
    jobs = submit(command, 2, tmp_path / "jobs", launcher="local", options={"cpus_per_task": "1"})
    assert wait(jobs) == []
    assert [(ledger.count("done"), len(ledger.tasks)) for ledger in Lookout(root).look().ledgers] == [(12, 12)]
    for task in helper.task_ids(12):
        assert (root / task[-5:] / "data.bin").read_bytes() == helper.result(task)
    said = [job.stdout() for job in jobs]
    assert all("ready" in text for text in said)
    assert sorted(line.split()[0] for text in said for line in text.splitlines() if line.startswith("class-")) == (
        helper.task_ids(12)
    )


def test_a_failed_job_and_unknown_options_are_told(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    with pytest.raises(ValueError, match="no_such"):
        submit(["true"], 1, tmp_path / "jobs", launcher="local", options={"slurm_no_such": "1"})
    (said,) = wait(submit([sys.executable, "-c", "raise SystemExit(3)"], 1, tmp_path / "jobs", launcher="local"))
    assert "ended with code 3" in said


def test_a_preempted_command_gets_sigterm_and_is_queued_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(); time.sleep(99)"
    )
    job = RunCommand([sys.executable, "-c", program])
    job._process = module.subprocess.Popen(job.command, stdout=module.subprocess.PIPE)
    assert job._process.stdout is not None
    job._process.stdout.readline()
    again = job.checkpoint()
    assert job._process.wait() == 143
    job._process.stdout.close()
    assert again.function.command == job.command
    assert again.function._process is None


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"'ray'.*slurm or local"):
        submit(["true"], 1, tmp_path, launcher="ray")
    with pytest.raises(ValueError, match="workers: got 0"):
        submit(["true"], 0, tmp_path, launcher="local")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="no sbatch"):
        submit(["true"], 1, tmp_path)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"ddfast\[slurm\]"):
        submit(["true"], 1, tmp_path, launcher="local")


def test_the_command_line_hands_on_the_same_command_with_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[Any, ...]] = []

    class Job:
        job_id = "17_0"

    def remember(command: list[str], workers: int, folder: Path, **options: Any) -> list[Job]:
        calls.append((command[3:], workers, folder, options))
        return [Job()] * workers

    monkeypatch.setattr(module, "submit", remember)
    out = tmp_path / "out"
    run = ["distill", "mtt", "--data", "d", "--out", str(out), "--lr-lr", "-1"]
    where = ["--launcher", "slurm", "--launch-workers=3", "--launch-option", "timeout-min=60"]
    assert main([*run[:2], *where, *run[2:]]) == 0
    options = {"launcher": "slurm", "name": "ddfast-distill", "options": {"timeout_min": "60"}}
    assert calls.pop() == ([*run, "--resume"], 3, tmp_path / "out_jobs", options)
    assert f"ddfast status {out} --watch" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path / "set"), "--resume", "--launcher", "slurm"]) == 0
    assert calls.pop()[:3] == (["evaluate", str(tmp_path / "set"), "--resume"], 4, tmp_path / "set_evaluation_jobs")
    assert main([*run, "--overwrite", *where]) == 1
    assert "not with --launcher" in capsys.readouterr().err
