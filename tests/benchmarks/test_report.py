"""Tables of README and docs come from the committed results, and only from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from record_helpers import record

from benchmarks import records, report
from benchmarks.ops_table import backends, ops_table
from benchmarks.run_table import run_table
from ddfast.ops._registry import OPS
from tests.bench.bench_helpers import CEILINGS


@pytest.fixture
def content(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(records, "commit", lambda: "0123456789")
    made = [record(), record("eager", 7e-3, baseline="torch 2"), record("other", 4e-3), record(group="op b")]
    return records.document("op", "smoke", made, CEILINGS)


@pytest.mark.parametrize("page", report.PAGES, ids=lambda page: page.name)
def test_pages_are_what_the_results_make_of_them(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert report.rebuilt(text, records.load_all()) == text, "run python -m benchmarks.report"


def test_ops_table_names_every_op(content: dict[str, Any]) -> None:
    content["records"][0]["group"] = content["records"][1]["group"] = "crop_score ImageNet-1K"
    rows = {line.split("`")[1]: line for line in ops_table([content]).splitlines()[2:]}
    assert all(name.startswith(tuple(rows)) for name in OPS), "a new op needs a line in benchmarks/ops_table.py"
    assert "| reference, C++, Triton, CUDA C++ | 200 us/crop; eager 3.5x the time |" in rows["crop_score"]
    assert backends("class_topk") == ["reference", "C++"]


def test_table(content: dict[str, Any]) -> None:
    lines = report.tables([content]).splitlines()
    assert "commit 0123456789; size smoke" in lines[0]
    assert lines[4] == (
        "| op a: 10 crops | 200 us/crop, 50 GFLOP/s | 2.00 (arithmetic) | eager 3.50x, (ddfast other) 2.00x |"
    )
    assert lines[5].startswith("| op b: 10 crops | 200 us/crop")
    content["records"][1]["over_ddfast"] = {"median": 3.3, "low": 3.2, "high": 3.4, "rounds": 5}
    assert "eager 3.30x" in report.tables([content]), "the ratio measured in turns is preferred"


def test_suites_of_a_machine_stand_together(content: dict[str, Any]) -> None:
    other = {**content, "suite": "rded", "machine": {**content["machine"], "slug": "other-2c"}}
    last = {**content, "suite": "mosaic"}
    text = report.tables([content, other, last])
    assert text.count("| job |") == 2
    assert report.tables([]) == "No result file is committed yet."


def test_whole_runs_stand_beside_the_transcription(content: dict[str, Any]) -> None:
    assert run_table([content]) == "No whole run is committed yet."
    ours, plain, other = content["records"][:3]
    plain.update(name="transcription", seconds=6.2)
    ours.update(shape="resnet18, 2 classes x 4 pictures x 5 crops", items=8, notes={"crops_scored_again_fp32": 10})
    ours["seconds"], other["group"] = 2.0, "alone"
    runs = {**content, "suite": "rded", "records": [plain, ours, other]}
    row = f"| op a, {ours['dtype']} | 6 s | 2 s | **3.1x** | 25.0 % | the same |"
    assert run_table([runs]).splitlines()[4:] == [row]
    ours["correctness"]["error"] = 3
    assert "| 3 others |" in run_table([runs])


def test_check_and_rebuild(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records.write(content, tmp_path / "results")
    page, other = tmp_path / "page.md", tmp_path / "other.md"
    for path, name in ((page, "benchmarks"), (other, "ops")):
        path.write_text(f"before\n{report.BEGIN.format(name)}\nold\n{report.END.format(name)}\nafter\n")
    options = ["--results", str(tmp_path / "results"), "--pages", str(page), str(other), "--no-figures"]
    assert report.main([*options, "--check"]) == 1
    assert "old" in page.read_text(), "--check writes nothing"
    assert report.main(options) == 0
    assert report.main([*options, "--check"]) == 0
    for path in (page, other):
        assert path.read_text().startswith("before\n<!--")
        assert path.read_text().endswith("-->\nafter\n")
    assert capsys.readouterr().out.count("differs") == 2
    with pytest.raises(ValueError, match="page: got no markers, expected <!-- benchmarks"):
        report.rebuilt("no markers", [])
    with pytest.raises(ValueError, match="page: expected one '<!-- ops"):
        report.rebuilt(report.BEGIN.format("ops"), [])


def test_figures_are_small_and_repeatable(content: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="figures need matplotlib (extra: plots)")
    from benchmarks import figures

    first, again = (figures.draw(content, tmp_path / name) for name in ("a", "b"))
    assert first.name == "op.png"
    assert first.read_bytes() == again.read_bytes()
    assert 2_000 < first.stat().st_size < 100_000
