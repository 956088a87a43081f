"""The command line as people use it: output, exit codes, messages without tracebacks."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import ddfast
from ddfast.cli import main
from ddfast.methods.rded.config import PRESETS
from tests.methods.rded_case import files_of, write_pictures

FAST = ["--ipc", "2", "--factor", "2", "--mipc", "10", "--num-crop", "2", "--size", "32", "--engine", "torch"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("cli") / "train", 3, 12)


def distill(pictures: Path, out: Path, *more: str) -> int:
    return main(
        ["distill", "rded", "--data", str(pictures), "--observer", "train:conv3", "--out", str(out), *FAST, *more]
    )


def test_distill_writes_the_set_and_reports(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert distill(pictures, tmp_path / "out") == 0
    assert len(list((tmp_path / "out").glob("0000?/*.jpg"))) == 6
    said = capsys.readouterr()
    text = said.err
    evaluation = f"ddfast evaluate {tmp_path / 'out'} --data TEST_PICTURES --train {pictures}"
    assert said.out == f"6 images in {tmp_path / 'out'}; next: {evaluation}\n"
    assert "source images" in text
    assert "x the limit" in text
    assert re.search(r"30/30 images \(100 %\), .*images/s", text)
    assert distill(pictures, tmp_path / "out") == 1
    message = capsys.readouterr().err
    assert "--resume" in message
    assert "--overwrite" in message
    assert "Traceback" not in message
    assert distill(pictures, tmp_path / "out", "--resume", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6


def test_the_end_names_files_that_were_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_pictures(tmp_path / "train", 2, 4)
    broken = sorted((root / "00001").iterdir())[1]  # one of the three that the seed draws
    broken.write_bytes(b"no picture")
    words = ["--data", str(root), "--ipc", "3", "--size", "16", "--selection", "random", "--out", str(tmp_path / "out")]
    assert main(["distill", "coreset", *words]) == 0
    such = f"such as 00001/{broken.name} (ddfast explain {tmp_path / 'out'}); next: ddfast evaluate "
    assert f"; 1 source file could not be read and was skipped, {such}" in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"1 missing .1 file could not be read: 00001/{broken.name}.; repair it, or"):
        ddfast.distill("coreset", root, out=tmp_path / "four", ipc=4, size=16, selection="random", quiet=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--observer", "resnet81"], ["resnet81", "resnet18"]),
        (["--observer", "resnet18_modified"], ["weights", "resnet18_modified"]),
        (["--data", "nowhere"], ["nowhere", "no such folder"]),
        (["--ipc", "5"], ["mipc", "20 patches"]),
        (["--precision", "bf16", "--parity"], ["precision", "fp32 with parity"]),
        (["--workers", "-1"], ["workers", "0 or more"]),
        (["--resume", "--overwrite"], ["one of the two"]),
    ],
)
def test_errors_are_one_line_and_say_what_to_do(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], words: list[str]
) -> None:
    assert distill(pictures, tmp_path / "out", *change) == 1
    text = capsys.readouterr().err
    assert text.startswith("ddfast: error: ")
    assert "Traceback" not in text
    for word in words:
        assert word in text


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["distill", "pdd", "--data", "mnist5k", "--out", "nowhere", "--ipc", "2"])  # not --ipc-per-stage
    assert "unrecognized arguments: --ipc 2" in capsys.readouterr().err


def test_wrong_usage_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    rded = ["distill", "rded", "--data", "mnist5k", "--out", "nowhere"]
    for wrong in (
        ["distill"], ["distill", "rded"], ["distill", "rded", "--nonsense"], [*rded, "--precision", "int8"],
        [*rded, "--device", "gpu"], [*rded, "--device", "cuda:x"], ["reproduce", "everything"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as error:
            main(wrong)
        assert error.value.code == 2
    capsys.readouterr()


def test_help_shows_every_preset_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["distill", "rded", "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    for word in (*PRESETS, "--ipc", "--observer", "--resume", "--strict", "--constant-frame-skip"):
        assert word in text


def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert "multi_crop" in capsys.readouterr().out
    assert main(["info", "--json"]) == 0
    assert "multi_crop" in json.loads(capsys.readouterr().out)["ops"]


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_resume_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "many", 60, 10)
    command = [sys.executable, "-m", "ddfast", "distill", "rded", "--data", str(pictures), "--observer", "train:conv3",
               *FAST, "--out"]  # fmt: skip
    subprocess.run([*command, str(tmp_path / "whole"), "--quiet"], check=True)
    out = tmp_path / "cut"
    process = subprocess.Popen([*command, str(out)], stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 120
    while not list(out.glob("tasks/*.done.json")) and process.poll() is None and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=60)
    assert process.returncode == 130, text
    assert "--resume" in text
    assert "Traceback" not in text
    done = len(list(out.glob("tasks/*.done.json")))
    assert 0 < done < 60
    subprocess.run([*command, str(out), "--resume", "--quiet"], check=True)
    assert files_of(out) == files_of(tmp_path / "whole")
