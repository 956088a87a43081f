"""What comes from outside reaches no terminal as a command; streams that are closed or full are no crash."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from ddfast import cli as cli_module
from ddfast._cli import machine
from ddfast._cli.answer import Answer, coloured
from ddfast._printable import printable
from ddfast.cli import main
from ddfast.runs.progress import Progress
from ddfast.runs.sharing import teller

EVIL = "cat\x1b]0;owned\x07\x9b2J\u202e"
SHOWN = "cat\\x1b]0;owned\\x07\\x9b2J\\u202e"


def test_printable() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("a\nb\tc\r") == "a\nb\tc\\r"
    assert printable("a\nb\tc", lines=False) == "a\\nb\\tc"
    for plain in ("", "a b", "ｶ　全角", "no-break\u00a0space", "naïve ± 猫"):
        assert printable(plain) == plain
    assert printable(os.fsdecode(b"\xff.jpg")) == "\\udcff.jpg"
    assert printable(3) == "3"


def raising(error: Exception) -> Any:
    def run(_: Any) -> Any:
        raise error

    return run


def test_answers_errors_and_warnings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for run in (
        lambda _: Answer(f"two\nlines of {EVIL}"),
        raising(ValueError(f"two\nlines of {EVIL}")),
        raising(FileNotFoundError(2, "two\nlines of", EVIL)),
    ):
        monkeypatch.setattr(machine, "_info", run)
        main(["info"])
        said = capsys.readouterr()
        text = said.out + said.err
        assert SHOWN in text
        assert "two\nlines of" in text
        assert not set(EVIL) - set("cat]0;owned2J") & set(text)
    with cli_module._plain_warnings():
        told = warnings.formatwarning(UserWarning(EVIL), UserWarning, "f.py", 3)
    assert told.endswith(f"ddfast: warning: {SHOWN}\n")
    with pytest.raises(SystemExit):
        main(["status", "run", f"--{EVIL}"])
    assert SHOWN in capsys.readouterr().err


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("lines", "bar"):
        out = Terminal()
        with Progress(3, title=EVIL, mode=mode, stream=out, interval=0.0) as progress:
            progress.update(1, f"class {EVIL}\n")
            progress.write(f"skipped {EVIL}")
        text = out.getvalue()
        assert f"class {SHOWN}\\n" in text
        assert f"skipped {SHOWN}\n" in text
        assert EVIL not in text
    teller(quiet=False)(f"waiting for {EVIL}")
    assert capsys.readouterr().err == f"waiting for {SHOWN}\n"


def test_without_standard_error_there_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as of a program without a console
    with Progress(2, title="work", mode="auto") as progress:
        progress.update()
    assert coloured("x", "1") == "x"


PROGRAM = """
import os, sys
from ddfast.cli import main
from ddfast._cli import answer, machine
from ddfast.runs.progress import Progress

def work(_):
    with open(sys.argv[1], "w") as file, Progress(2, title="work") as progress:
        progress.update(2)
        os.system("echo to one; echo to two >&2")  # as a helper process
        file.write("done")
    return answer.Answer("much to say")

machine._info = work
sys.exit(main(["info"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="closes streams by a shell")
@pytest.mark.parametrize(
    ("closed", "code", "out", "err"),
    [
        ("2>&-", 0, "much to say", ""),
        ("<&- >&- 2>&-", 0, "", ""),
        (">/dev/full", 1, "", "ddfast: error: standard output: No space left on device\n"),
    ],
)
def test_closed_and_full_streams(closed: str, code: int, out: str, err: str, tmp_path: Path) -> None:
    if "full" in closed and not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    file = tmp_path / "file"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" "$2" {closed}', sys.executable, PROGRAM, str(file)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert file.read_text() == "done"  # and nothing that was meant for a stream
    assert out in done.stdout
    assert err in done.stderr
    assert "Traceback" not in done.stderr
    assert not out or err or done.stderr == ""


def test_a_flush_that_fails_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    def printing(_: Any) -> None:
        print("a table")

    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(cli_module, "_drop_output", lambda: None)
    for run in (printing, lambda _: Answer("text"), raising(ValueError("standard output: No space left on device"))):
        monkeypatch.setattr(machine, "_info", run)
        assert main(["info"]) == 1
        assert capsys.readouterr().err == "ddfast: error: standard output: No space left on device\n"
