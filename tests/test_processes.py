"""Processes that ddfast starts import what it imports itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import ddfast
from ddfast._processes import module_command


def test_the_current_folder_comes_not_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "random.py").write_text("raise SystemExit('a stranger')")
    (tmp_path / "ddfast").mkdir()
    (tmp_path / "ddfast/__init__.py").write_text("raise SystemExit('another ddfast')")
    monkeypatch.chdir(tmp_path)
    wrong = subprocess.run([sys.executable, "-m", "ddfast", "--version"], capture_output=True, text=True)
    right = subprocess.run(module_command("ddfast", "--version"), capture_output=True, text=True)
    assert wrong.returncode != 0
    assert (right.returncode, right.stdout.split()) == (0, ["ddfast", ddfast.__version__])


def test_folders_that_are_searched_here_are_searched_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "told.py").write_text("import sys; print(__name__, sys.argv[1:])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    command = module_command("told", "a", "b c")
    monkeypatch.chdir(tmp_path.parent)
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == "__main__ ['a', 'b c']\n"
