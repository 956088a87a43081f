"""Names that sentences give: of Python, of environment variables and of the repository's files, are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import FILES, ROOT, TEMPLATES, inline_code, text_of

_NAME = re.compile(r"(ddfast(?:\.[A-Za-z_]\w*)+)(?:\(.*\))?")
_PATH = re.compile(r"(?:\.github|\.ci|benchmarks|csrc|ddfast|docs|examples|packaging|tests)/[\w./-]*\w")
# the changelog may name what is gone
_NOW = tuple(file for file in FILES if file.name != "CHANGELOG.md")
_VARIABLE = re.compile(r"\bDDFAST_[A-Z_]*[A-Z]\b")


def find(name: str) -> Any:
    """What ``ddfast.a.b`` is.

    Raises:
        AttributeError, ImportError: it is not there.
    """
    first, *rest = name.split(".")
    found: Any = importlib.import_module(first)
    for place, part in enumerate(rest):
        if not hasattr(found, part):
            found = importlib.import_module(".".join([first, *rest[: place + 1]]))
        else:
            found = getattr(found, part)
    return found


@pytest.mark.parametrize("file", _NOW, ids=lambda file: str(file.relative_to(ROOT)))
def test_python_names_are_there(file: Path) -> None:
    for code in inline_code(file):
        if match := _NAME.fullmatch(code):
            find(match[1])


@pytest.mark.parametrize("file", [*_NOW, *TEMPLATES], ids=lambda file: str(file.relative_to(ROOT)))
def test_files_are_there(file: Path) -> None:
    for code in inline_code(file):
        if match := _PATH.fullmatch(code):
            places = (ROOT / match[0], file.parent / match[0])
            assert any(place.exists() for place in places), code


def test_environment_variables_are_read_somewhere() -> None:
    shown = {name for file in _NOW for name in _VARIABLE.findall(text_of(file))}
    places = [*(ROOT / "ddfast").rglob("*.py"), *(ROOT / "tests").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    read = "".join(path.read_text(encoding="utf-8") for path in (*places, ROOT / "setup.py"))
    assert len(shown) > 5
    assert {name for name in shown if f'"{name}"' not in read} == set()
