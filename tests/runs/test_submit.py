"""Many jobs of one command: through submitit's local executor, and what the command line hands to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import ledger_worker as helper
import torch

from ddfast._cli import runs as commands
from ddfast.cli import main
from ddfast.runs import submit as module
from ddfast.runs.jobs import LocalCommand, RunCommand
from ddfast.runs.local_jobs import share_devices, visible_devices, wait
from ddfast.runs.lookout import Lookout
from ddfast.runs.preemption import Preempted, preemptible
from ddfast.runs.submit import submit


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


def test_local_jobs_have_a_device_each_and_what_they_fail_with_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    with pytest.raises(ValueError, match="no_such"):
        submit(["true"], 1, tmp_path / "jobs", launcher="local", options={"slurm_no_such": "1"})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-0a,5")
    program = """if 1:
        import os, sys
        print("device", os.environ["CUDA_VISIBLE_DEVICES"])
        print("some progress\\n\\x1b[1;31mddfast: error:\\x1b[0m data: no\\ndid you mean x?", file=sys.stderr)
        sys.exit(3)
    """
    command = [sys.executable, "-c", program]
    jobs = submit(command, 2, tmp_path / "jobs", launcher="local")
    shared = submit(command, 1, tmp_path / "jobs", launcher="local", own_devices=False)
    (said,) = wait(jobs)
    first, *words = said.splitlines()
    assert first == (
        f"jobs {jobs[0].job_id}, {jobs[1].job_id} ended with code 3; log: {jobs[0].paths.stderr}, which ends with:"
    )
    assert words == ["  ddfast: error: data: no", "  did you mean x?"]
    assert ["device 3" in jobs[0].stdout(), "device GPU-0a" in jobs[1].stdout()] == [True, True]
    wait(shared)
    assert "device 3,GPU-0a,5\n" in shared[0].stdout()


def test_devices_in_turns() -> None:
    assert share_devices((), 2, 1) == [(), ()]
    assert share_devices(("4", "7"), 3, 1) == [("4",), ("7",), ("4",)]
    assert share_devices(("4", "7", "9"), 2, 2) == [("4", "7"), ("9", "4")]
    assert share_devices(("4", "7", "9"), 2, 1, each=2) == [("4,7",), ("9,4",)]
    assert share_devices(("4",), 1, 1, each=0) == [("",)]
    with pytest.raises(ValueError, match="gpus_per_node: got 2, but 1 CUDA"):
        share_devices(("4",), 1, 1, each=2)
    for given, devices in (("0,1", "0 1"), ("", ""), ("-1", ""), ("0, 1,-1,2", "0 1"), ("NoDevFiles", "")):
        assert visible_devices({"CUDA_VISIBLE_DEVICES": given}) == tuple(devices.split())
    assert visible_devices({}) == tuple(map(str, range(torch.cuda.device_count())))
    assert LocalCommand(["true"]).environment({}) == {}
    second = {"SUBMITIT_LOCAL_LOCALID": "1"}
    assert LocalCommand(["true"], ("4", "7")).environment(second) == {"CUDA_VISIBLE_DEVICES": "7"}


def test_a_signal_to_the_launcher_ends_its_local_jobs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    program = f"""if 1:
        import os, pathlib, signal, sys, time
        folder = pathlib.Path({str(tmp_path)!r})
        def end(*_):
            time.sleep(0.3)  # as if it gave its tasks back
            (folder / f"back-{{os.getpid()}}").write_text("")
            sys.exit(143)
        signal.signal(signal.SIGTERM, end)
        ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # what a terminal sends
        (folder / f"ready-{{os.getpid()}}-{{ignored}}").write_text("")
        time.sleep(60)
    """
    jobs = submit([sys.executable, "-c", program], 2, tmp_path / "jobs", launcher="local")
    limit = time.monotonic() + 60
    while len(list(tmp_path.glob("ready-*"))) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    assert {path.name.split("-")[2] for path in tmp_path.glob("ready-*")} == {"True"}
    timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGTERM))

    def stopped() -> None:
        timer.start()
        commands._wait(jobs)

    with pytest.raises(Preempted), preemptible():
        stopped()
    assert len(list(tmp_path.glob("back-*"))) == 2
    assert all(job.done() for job in jobs)
    assert capsys.readouterr().err == "\nstopping 2 workers, which give their tasks back\n"


def test_ctrl_c_ends_local_jobs_and_says_which_take_longer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with subprocess.Popen(["sh", "-c", "trap '' TERM; echo; exec sleep 60"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        class Job:
            job_id = str(process.pid)
            asked = 0

            def done(self) -> bool:
                self.asked += 1
                if self.asked == 2:
                    raise KeyboardInterrupt
                return False

        monkeypatch.setattr(commands, "_GRACE", 0.0)
        with pytest.raises(KeyboardInterrupt):
            commands._wait([Job()])
        process.kill()
    assert "1 of them end later" in capsys.readouterr().err


def test_a_preempted_command_gets_sigterm_and_is_queued_again(tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed (pip install 'ddfast[slurm]')")
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(); time.sleep(99)"
    )
    job = RunCommand([sys.executable, "-c", program])
    job._process = subprocess.Popen(job.command, stdout=subprocess.PIPE)
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
    options = {"launcher": "slurm", "name": "ddfast-distill", "options": {"timeout_min": "60"}, "own_devices": True}
    assert calls.pop() == ([*run, "--resume"], 3, tmp_path / "out_jobs", options)
    told = capsys.readouterr().out
    assert told.startswith("3 workers, jobs 17_0 and following; logs in ")
    assert f"ddfast status {out} --watch" in told
    assert main([*run, *where[:2], "--launch-workers", "1", "--device", "cuda:1"]) == 0
    assert not calls.pop()[3]["own_devices"]
    assert capsys.readouterr().out.startswith("1 worker, job 17_0; logs in ")
    assert main(["evaluate", str(tmp_path / "set"), "--resume", "--launcher", "slurm"]) == 0
    assert calls.pop()[:3] == (["evaluate", str(tmp_path / "set"), "--resume"], 4, tmp_path / "set_evaluation_jobs")
    monkeypatch.setattr("ddfast.runs.local_jobs.wait", lambda _: [])
    monkeypatch.setattr("ddfast._cli.runs.cores", lambda: 9)
    some = ["--launch-workers=1", "--launch-option", "tasks_per_node=3"]
    for given, passed in (
        ([], ["--processes", "2"]), (["--processes=3"], []),
        (some, ["--processes", "3"]), (some[:1], []), (["--launch-workers=40"], ["--processes", "1"]),
    ):  # fmt: skip
        assert main(["evaluate", str(tmp_path / "set"), "--launcher", "local", *given]) == 0
        kept = [word for word in given if word.startswith("--processes")]
        assert calls.pop()[0] == ["evaluate", str(tmp_path / "set"), *kept, "--resume", *passed]
    monkeypatch.setattr("ddfast.runs.device.torch_device", lambda _: "cuda")
    assert main(["evaluate", str(tmp_path / "set"), "--launcher", "local"]) == 0
    assert calls.pop()[0][-2:] == ["--processes", "1"]
    assert main([*run, "--overwrite", *where]) == 1
    assert "not with --launcher" in capsys.readouterr().err
    assert main([*run, "--shard", "0/4", *where]) == 1
    assert "shard: got '0/4' with --launcher" in capsys.readouterr().err
    assert not calls
