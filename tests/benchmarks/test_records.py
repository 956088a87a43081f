"""Result files: derived figures, schema, and that nothing of the machine's names gets in."""

from __future__ import annotations

import copy
import getpass
import json
import platform
from pathlib import Path

import pytest
from record_helpers import record

from benchmarks import records
from benchmarks.records import Timing
from ddfast.bench.measured import Spread
from tests.bench.bench_helpers import CEILINGS


def test_derived_figures() -> None:
    made = record().as_dict()
    assert made["gflop_per_s"] == pytest.approx(1e8 / 2e-3 / 1e9)
    assert made["gb_per_s"] == pytest.approx(1.0)
    assert made["x_of_limit"] == pytest.approx(2.0)
    assert "2.00 x of the limit (arithmetic)" in record().line()
    assert Timing(1, 1, Spread(3, 3, 0), Spread(2, 2, 0)).quoted(cores=2) == 3
    assert Timing(1, 1, Spread(3, 3, 0), Spread(2, 2, 0), Spread(1, 1, 0)).quoted() == 1


def test_file_is_written_and_read_back(tmp_path: Path) -> None:
    content = records.document("op", "smoke", [record(), record("eager", baseline="torch 2")], CEILINGS)
    path = records.write(content, tmp_path)
    assert path == tmp_path / content["machine"]["slug"] / "op.json"
    loaded = records.load_all(tmp_path)
    assert [each["name"] for each in loaded[0]["records"]] == ["cpp", "eager"]
    text = path.read_text()
    for private in (platform.node(), str(Path.home()), str(records.RESULTS.parents[1])):
        assert len(private) < 4 or private not in text
    assert getpass.getuser() not in json.dumps(content["machine"]) or len(getpass.getuser()) < 3


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("records", 0, "wall_s", "median"), "fast"),
        (("records", 0, "limit", "binding"), "luck"),
        (("records", 0, "rounds"), 0),
        (("machine", "hostname"), "box"),
        (("schema_version",), 2),
        (("records",), []),
    ],
)
def test_schema_refuses(where: tuple, value: object) -> None:
    content = copy.deepcopy(records.document("op", "smoke", [record()], CEILINGS))
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    with pytest.raises(ValueError, match="result file: at"):
        records.validate(content)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "op.json").write_text("{}")
    with pytest.raises(ValueError, match=r"op\.json in box"):
        records.load_all(tmp_path)


def test_committed_results_fit_the_schema() -> None:
    for content in records.load_all():
        assert "-dirty" not in content["commit"], "results of uncommitted code"
