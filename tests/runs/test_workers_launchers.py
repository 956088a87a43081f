"""What starts workers: torchrun, also when one is killed and all are started again, and job arrays in any order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ddfast import cli
from tests.methods.rded_case import files_of, write_pictures
from tests.runs import workers_case as case

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures") / "train", case.CLASSES, case.EACH)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> dict[str, bytes]:
    """The files of one process."""
    out = tmp_path_factory.mktemp("alone") / "set"
    case.together(case.commanded, 1, out, pictures)
    return files_of(out)


def torchrun(log: Path, *words: str, restarts: int = 0) -> subprocess.Popen[bytes]:
    """Two workers of a command, their words in ``log``."""
    launch = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts), "-m", "ddfast", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with log.open("wb") as file:
        run = [sys.executable, "-m", "torch.distributed.run", *launch]
        return subprocess.Popen(run, cwd=ROOT, env=environment, stderr=file, stdout=file)


def test_torchrun_gives_the_files_of_one_process(tmp_path: Path, pictures: Path, alone: dict[str, bytes]) -> None:
    process = torchrun(tmp_path / "log", *case.command(tmp_path / "out", pictures))
    assert process.wait(180) == 0, (tmp_path / "log").read_text()
    assert files_of(tmp_path / "out") == alone
    assert (tmp_path / "log").read_text().count("training conv3 on 72 pictures: 0/12 steps done") == 1


def test_an_array_that_begins_with_its_last_task(tmp_path: Path, pictures: Path, alone: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    shared = case.together(case.commanded, 2, out, pictures, between=(out / "run.json").exists)
    assert min(shared.tasks) > 0
    assert files_of(out) == alone


@pytest.mark.parametrize("words", ["evaluate", "continual", "relabel --teacher conv3 --out out"])
def test_commands_take_a_shard(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, *more = words.split()
    assert cli.main([name, str(tmp_path / "set"), *more, "--shard", "2/2"]) == 1
    assert "shard: got '2/2'" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")
def test_torchrun_starts_all_again_when_one_is_killed(tmp_path: Path, pictures: Path) -> None:
    case.together(case.commanded_longer, 1, tmp_path / "alone", pictures)
    out, log = tmp_path / "out", tmp_path / "log"
    process = torchrun(log, *case.command(out, pictures, *case.LONGER), restarts=1)
    limit = time.monotonic() + 120
    while not list(out.glob("tasks/*.done.json")):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < limit
        time.sleep(0.005)
    os.kill(rank(process.pid, 1), signal.SIGKILL)
    assert not (out / "manifest.json").exists()
    assert process.wait(180) == 0, log.read_text()
    assert files_of(out) == files_of(tmp_path / "alone")


def rank(parent: int, number: int) -> int:
    """The process of a rank among the children of torchrun."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={number}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"no rank {number}")
