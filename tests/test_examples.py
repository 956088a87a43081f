"""Examples refuse what they could not show; what they do show CI runs (examples/run_all.py)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("rded_on_a_folder", ("--size", "33"), "--size: got 33, expected an even number of pixels, such as 34"),
        ("crops_in_your_code", ("--data", "nowhere"), "--data: no JPEG or PNG files in nowhere"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    name: str, words: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert refused.value.code == 2
    assert message in capsys.readouterr().err


def test_no_example_leaves_a_folder_behind() -> None:
    leaving = [file.name for file in EXAMPLES.glob("*.py") if "mkdtemp" in file.read_text(encoding="utf-8")]
    assert leaving == [], "use tempfile.TemporaryDirectory"
