"""``ddfast bench`` as people use it: table, file and figure; what is wrong is not timed; what was measured is kept."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ddfast import ops
from ddfast.bench import cases, end_to_end, op_cases, run
from ddfast.bench.cases import Setting, Spec
from ddfast.bench.floor import Floor
from ddfast.bench.results import Result
from ddfast.cli import main
from tests.bench.bench_helpers import CEILINGS

NAMES = ["multi_crop", "crop_score", "mosaic", "input path", "forward fp32", "forward bf16", "RDED"]


@pytest.mark.slow
def test_quick_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--quick", "--device", "cpu", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    content = json.loads((tmp_path / "bench.json").read_text())
    assert content["finished"]
    assert [case["name"] for case in content["cases"]] == NAMES
    for case in content["cases"]:
        assert case["status"] == "measured"
        assert case["seconds"] > 0
        assert case["x_of_limit"] == pytest.approx(case["seconds"] / case["floor"]["seconds"], rel=1e-4)
        assert case["x_of_limit"] > 0.4, f"{case['name']} is far below its floor: the floor is wrong"
        assert case["check"]["error"] <= case["check"]["bound"]
        assert case["over"]["median"] > 0
    head, ruler, *rows = printed.out.splitlines()
    assert head.split()[:2] == ["case", "ms"]
    assert [row[: len(name)] for row, name in zip(rows, NAMES, strict=False)] == NAMES
    assert {row.index(" (") < len(ruler) for row in rows[: len(NAMES)]} == {True}
    assert "ImageNet-1K (300,000 pictures) would take" in printed.out
    assert "[7/7] RDED on cpu" in printed.err
    if find_spec("matplotlib") is None:
        return
    assert str(tmp_path / "bench.png") in printed.err
    with Image.open(tmp_path / "bench.png") as figure:
        assert min(figure.size) > 500


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(True, 0.02, tmp_path)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cases, made-up ceilings."""
    chosen = [Spec("crop_score", "cpu", op_cases.crop_score), Spec("multi_crop", "cpu", op_cases.multi_crop)]
    monkeypatch.setattr(run, "specs", lambda device: chosen)
    monkeypatch.setattr(
        run.ceilings, "measure", lambda: run.ceilings.Ceilings(1e11, 4e11, 1e10, 7e-9, 1e-9, 4e-5, 1e-3)
    )
    monkeypatch.setattr(run, "floor_of", lambda *_: Floor(1e-5, "memory"))


def spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ops.crop_score

    def wrong(logits: torch.Tensor, labels: torch.Tensor, **options: Any) -> tuple[torch.Tensor, ...]:
        loss, best, index = right(logits, labels, **options)
        return (loss if logits.dtype == torch.float64 else loss * 1.01), best, index

    monkeypatch.setattr(op_cases.ops, "crop_score", wrong)


def test_a_wrong_result_is_reported_and_not_timed(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch)
    assert main(["bench", "--out", str(tmp_path), "--quick", "--device", "cpu"]) == 1
    first, second = json.loads((tmp_path / "bench.json").read_text())["cases"]
    assert (first["status"], second["status"]) == ("failed", "measured")
    assert first["seconds"] is first["over"] is first["rate"] is None
    text = capsys.readouterr().out
    assert "FAILED crop_score: ddfast is wrong: relative loss error against float64" in text
    assert "allowed 2e-05" in text


def test_a_wrong_rival_is_no_rival(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_cases.rivals, "paste", lambda *_: torch.zeros(2, 224, 224, 3, dtype=torch.uint8))
    result = run.measure_case(Spec("mosaic", "cpu", op_cases.mosaic), setting, CEILINGS)
    assert result.reason.startswith("the rival is wrong: mean grey levels off the definition")
    assert result.seconds is None


def test_a_case_that_cannot_run_does_not_end_the_others(setting: Setting) -> None:
    def build(_: Setting) -> cases.Case:
        raise RuntimeError("no such kernel\nand more")

    result = run.measure_case(Spec("broken", "cpu", build), setting, CEILINGS)
    assert (result.failed, result.reason) == (True, "RuntimeError: no such kernel")


def test_interrupted_run_keeps_what_was_measured(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Setting) -> cases.Case:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "specs", lambda device: [
        Spec("crop_score", "cpu", op_cases.crop_score), Spec("stopped", "cpu", interrupt),
    ])  # fmt: skip
    assert main(["bench", "--out", str(tmp_path), "--quick"]) == 130
    content = json.loads((tmp_path / "bench.json").read_text())
    assert not content["finished"]
    assert [case["name"] for case in content["cases"]] == ["crop_score"]
    printed = capsys.readouterr()
    assert "crop_score" in printed.out
    assert "1 of 2 cases are in" in printed.err


def test_json_and_no_matplotlib(
    few: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["bench", "--out", str(tmp_path), "--quick", "--json", "--device", "cpu"]) == 0
    printed = capsys.readouterr()
    assert [case["name"] for case in json.loads(printed.out)["cases"]] == ["crop_score", "multi_crop"]
    assert "pip install 'ddfast[plots]'" in printed.err
    assert not (tmp_path / "bench.png").exists()


def test_quiet_and_a_file_in_the_way(few: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "--quick", "--device", "cpu", "--quiet", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("case")
    assert printed.err == ""
    file = tmp_path / "file"
    file.write_bytes(b"")
    assert main([*words, str(file / "out")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"ddfast: error: {file}: is a file, expected a folder (or nothing) to write to\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_device_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--device", "cuda", "--out", str(tmp_path)]) == 1
    assert "no CUDA device" in capsys.readouterr().err
    with pytest.raises(ValueError, match="device: got 'tpu'"):
        run.run_bench(tmp_path, device="tpu")


@pytest.mark.gpu
@pytest.mark.slow
def test_quick_run_on_a_gpu(tmp_path: Path) -> None:
    assert main(["bench", "--quick", "--device", "cuda", "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "bench.json").read_text())
    assert [case["status"] for case in content["cases"]] == ["measured"] * 5
    assert {case["device"] for case in content["cases"]} == {"cuda"}


def test_another_choice_of_patches_is_noticed() -> None:
    known = [{(f"a/{k}.jpg", (0, 0, side, side)): k + side / 1000 for k in range(6) for side in (100, 200)}]
    cells = [{"sample": f"a/{k}.jpg", "box": [0, 0, 100, 100]} for k in range(4)]
    manifest = {"images": [{"label": 0, "cells": cells}]}
    assert end_to_end._check(known, manifest, 1).passed
    for other in ({"sample": "a/5.jpg", "box": [0, 0, 100, 100]}, {"sample": "a/3.jpg", "box": [0, 0, 200, 200]},
                  {"sample": "a/3.jpg", "box": [1, 0, 100, 100]}):  # fmt: skip
        assert not end_to_end._check(known, {"images": [{"label": 0, "cells": [*cells[:3], other]}]}, 1).passed
    assert end_to_end._check(known, {"images": [{"label": 0, "cells": cells[::-1]}]}, 1).passed
    assert not end_to_end._check(known, {"images": [{"label": 0, "cells": [*cells[:3], cells[0]]}]}, 1).passed
    assert not end_to_end._check(known, {"images": []}, 1).passed


def test_a_result_of_infinite_error_is_json() -> None:
    made = Result("x", "cpu", reason="wrong", check=op_cases.Check("c", float("inf"), 1.0))
    assert json.loads(json.dumps(run._plain(made.as_dict()), allow_nan=False))["check"]["error"] == "inf"
    assert replace(made, seconds=2.0, items=4, reason="").rate == 2.0
