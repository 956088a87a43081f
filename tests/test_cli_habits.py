"""What people expect of any command line: help, hints, JSON, quiet pipes, colours, completion, exit codes."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError

from ddfast import _env
from ddfast import cli as cli_module
from ddfast._cli import commands as commands_module
from ddfast._cli.answer import Answer, coloured, plain
from ddfast._cli.commands import COMMANDS, make_parser
from ddfast._cli.errors import describe_error
from ddfast._cli.parser import Parser
from ddfast.cli import main
from ddfast.methods import method_names
from ddfast.store import DistilledSet


@pytest.fixture(scope="module")
def parser() -> Parser:
    return make_parser()


def walk(of: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Every command, those of each method of ``distill`` too."""
    below = [action for action in of._actions if isinstance(action, argparse._SubParsersAction)]
    for action in below:
        for name, one in action.choices.items():
            yield from walk(one, (*words, name))
    if not below:
        assert isinstance(of, Parser)
        yield words, of


def test_walk_finds_every_method(parser: Parser) -> None:
    assert {words[1] for words, _ in walk(parser) if words[0] == "distill"} == set(method_names())


def usage_error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(list(words))
    assert error.value.code == 2
    return capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, run: Any) -> None:
    """Lets ``ddfast info`` do something else."""
    from ddfast._cli import machine

    monkeypatch.setattr(machine, "_info", run)


def raising(error: BaseException) -> Any:
    def run(_: Any) -> Any:
        raise error

    return run


def a_set(folder: Path, protocol: str | None = None) -> Path:
    images = torch.zeros(2, 16, 16, 3, dtype=torch.uint8)
    manifest: dict[str, Any] = {"recipe": {"protocol": protocol}} if protocol else {}
    return DistilledSet(images, torch.tensor([0, 1]), ("a", "b"), manifest).save(folder)


def test_alone_it_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    text = capsys.readouterr().out
    assert all(f"    {name}" in text for name, _, _ in COMMANDS)
    assert "examples:" in text
    assert "exit codes: 0 done" in text
    assert "141 nobody" in text


def test_the_list_and_the_help_agree(parser: Parser) -> None:
    listed = {name: line for name, line, _ in COMMANDS}
    shown = {words[0] for words, _ in walk(parser)}
    assert shown == set(listed)


def test_every_command_has_examples_that_parse(parser: Parser) -> None:
    for words, one in walk(parser):
        lines = [
            line.split("#")[0].split(">")[0].split() for line in one.format_help().split("examples:\n")[1].splitlines()
        ]
        examples = [line for line in lines if line[:1] == ["ddfast"]]
        assert examples, words
        for example in examples:
            parser.parse_args(example[1:])
        assert "exit codes:" in one.format_help()


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (["evalute", "x"], "evaluate"),
        (["distill", "redd"], "rded"),
        (["distill", "rded", "--data", "d", "--out", "o", "--obsever", "x"], "--observer"),
        (["distill", "rded", "--data", "d", "--out", "o", "--preset", "smok"], "smoke"),
        (["distill", "pdd", "--data", "d", "--out", "o", "--ipc", "2"], "--ipc-per-stage"),
        (["distill", "rded", "--data", "d", "--out", "o", "--engine", "toch"], "torch"),
        (["distill", "coreset", "--data", "d", "--out", "o", "--selection", "hering"], "herding"),
        (["evaluate", "x", "--staged", "progresive"], "progressive"),
        (["reproduce", "pdd-smal"], "pdd-small"),
        (["status", "x", "--taks"], "--tasks"),
    ],
)
def test_wrong_names_get_the_closest(words: list[str], near: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = usage_error(capsys, *words)
    assert f"did you mean {near}?" in text
    assert "--help)" in text
    assert len(text.splitlines()) < 10


def test_errors_of_the_library_get_the_closest_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    assert main(["distill", "pdd", "--data", "mnist5k", "--base", "mttt", "--out", out]) == 1
    assert "did you mean 'mtt'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ipc: got 0"), TypeError("ipc: got 'x'"), FileNotFoundError(2, "No such file", "x"),
        OSError(28, "full"), ImportError("needs timm: pip install 'ddfast[timm]'"), RuntimeError("broken"),
        MemoryError(), FloatingPointError("loss"), zipfile.BadZipFile("no zip"), SafetensorError("no header"),
        subprocess.TimeoutExpired("nvidia-smi", 3.0), http.client.IncompleteRead(b""), zlib.error("no stream"),
        Image.DecompressionBombError("too large"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_user_errors_have_no_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(monkeypatch, raising(error))
    assert main(["info", "--json"]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("ddfast: error: ")
    assert "Traceback" not in said.err
    monkeypatch.setenv("DDFAST_DEBUG", "1")
    with pytest.raises(type(error)):
        main(["info"])


def test_mistakes_of_the_program_show_where_they_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (KeyError("x"), AttributeError("x"), AssertionError("x")):
        failing(monkeypatch, raising(error))
        with pytest.raises(type(error)):
            main(["info"])


def test_messages() -> None:
    assert describe_error(OSError(28, "No space left on device")) == "No space left on device"
    assert describe_error(FileNotFoundError(2, "No such file", "x.pth")) == "x.pth: No such file"
    memory = describe_error(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB"))
    assert "--batch-size" in memory
    assert "--resume" in memory
    assert describe_error(ValueError("a: got 'mine', expected one of mine, yours")).endswith("yours")
    assert describe_error(TypeError("evaluate has no setting 'sedes'; settings: best, seeds")).endswith("'seeds'?")


def test_a_wrong_backend_in_the_environment_is_an_error_and_not_a_crash(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DDFAST_BACKEND", "bogus")
    monkeypatch.setattr(cli_module, "make_parser", lambda only: _env.backend())  # as when the ops are imported
    assert main(["distill", "rded"]) == 1
    assert "DDFAST_BACKEND='bogus': expected reference" in capsys.readouterr().err


def test_interruptions(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing(monkeypatch, raising(KeyboardInterrupt()))
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
    monkeypatch.setattr(cli_module, "make_parser", raising(KeyboardInterrupt()))
    assert main(["info"]) == 130
    assert capsys.readouterr().err == "\ninterrupted before anything was started\n"


def test_warnings_show_no_source_lines() -> None:
    before = warnings.formatwarning
    with cli_module._plain_warnings():
        assert warnings.formatwarning(UserWarning("odd"), UserWarning, "f.py", 3).endswith("ddfast: warning: odd\n")
    assert warnings.formatwarning is before


def test_json_is_one_document_and_all_else_goes_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def run(_: Any) -> Answer:
        print("by the way")
        return Answer("for people", {"loss": float("inf"), 3: (1, 2)})

    failing(monkeypatch, run)
    assert main(["info", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == {"loss": "inf", "3": [1, 2]}
    assert said.err == "by the way\n"
    assert main(["info"]) == 0
    assert capsys.readouterr().out == "by the way\nfor people\n"
    made = a_set(tmp_path / "set")
    assert main(["export", str(made), "--to", "imagefolder", "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"] == [
        "classes.json", "manifest.json", "train/00000/class00000_id00000.png", "train/00001/class00001_id00000.png",
    ]  # fmt: skip
    assert plain(float("nan")) == "nan"


def test_every_command_that_has_a_result_takes_json_and_quiet(parser: Parser) -> None:
    for words, one in walk(parser):
        options = one._option_string_actions
        assert "--quiet" in options, words
        assert "--traceback" in options, words
        assert words == ("completion",) or "--json" in options, words


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert coloured("x", "1", Terminal()) == "\x1b[1mx\x1b[0m"
    assert coloured("x", "1", io.StringIO()) == "x"
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert coloured("x", "1", io.StringIO()) == "\x1b[1mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert coloured("x", "1", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert coloured("x", "1", Terminal()) == "x"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_no_error(unbuffered: str) -> None:
    code = (
        "import sys; from ddfast.cli import main; from ddfast._cli import machine, answer\n"
        "machine._info = lambda _: answer.Answer('much to say')\n"
        "sys.exit(main(['info']))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_bash_completes_commands_methods_and_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    for shell, mark in (("zsh", "#compdef ddfast"), ("fish", "complete")):
        assert main(["completion", shell]) == 0
        said = capsys.readouterr().out
        assert mark in said
        if shell == "zsh":
            zsh = said
    options = {
        "device": "(auto cpu cuda)", "selection": "(random herding k-center forgetting)", "storage": "(fp32 fp16 int8)",
        "engine": "(auto torch compile openvino)", "precision": "(fp32 bf16 fp16)",
    }  # fmt: skip
    assert [name for name, values in options.items() if not re.search(rf'"--{name}\[.*{re.escape(values)}"', zsh)] == []
    assert "pdd-small" in zsh
    assert main(["completion", "bash"]) == 0
    script = tmp_path / "ddfast.bash"
    script.write_text(capsys.readouterr().out)
    lines = ["ev", "distill rd", "distill rded --obs", "evaluate set --preset rd", "distill coreset --selection her"]
    asked = "".join(
        f"COMP_WORDS=(ddfast {line}); COMP_CWORD={len(line.split())}; COMPREPLY=(); _shtab_ddfast; "
        'echo "${COMPREPLY[*]}"\n'
        for line in lines
    )
    done = subprocess.run(["bash", "-c", f"source {script}\n{asked}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["evaluate", "rded", "--observer", "rded", "herding"]


def test_completion_without_shtab_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    monkeypatch.setattr(commands_module, "COMMANDS", COMMANDS[-1:])
    assert main(["completion", "bash"]) == 1
    assert "pip install 'ddfast[completion]'" in capsys.readouterr().err


def test_evaluate_names_arguments_and_takes_the_sets_own_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = str(a_set(tmp_path / "set", "dsa"))
    pictures = str(tmp_path / "test.npz")
    images = np.arange(6 * 16 * 16 * 3, dtype=np.uint64).reshape(6, 16, 16, 3).astype(np.uint8)
    np.savez(pictures, images=images, labels=np.arange(6) % 2, class_names=np.array(["a", "b"]))
    given = [
        "--seeds",
        "1",
        "--epochs",
        "1",
        "--width",
        "8",
        "--students",
        "conv2-in",
        "--processes",
        "1",
        "--no-soft",
        "--quiet",
    ]
    for words, message in (
        (["--data", "nowhere"], "data: 'nowhere': no such folder"),
        (["--data", pictures, "--train", "nowhere"], "train: 'nowhere': no such folder"),
        (["--data", pictures, "--students", "resnet81"], "students: got 'resnet81'"),
        (["--data", pictures, "--fresh", "batch"], "fresh: got 'batch', but no set here is a distribution"),
    ):
        assert main(["evaluate", made, *given, *words]) == 1
        assert message in capsys.readouterr().err
    assert main(["evaluate", made, *given, "--data", pictures, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["config"]["preset"] == "dsa"
    other = str(a_set(tmp_path / "other", "idc"))
    assert main(["evaluate", made, other, *given, "--data", pictures, "--out", str(tmp_path / "two")]) == 1
    assert "name different recipes, dsa, idc" in capsys.readouterr().err
