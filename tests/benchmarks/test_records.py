"""Result files: floors by hand, schema, and that nothing of the machine's names gets in."""

from __future__ import annotations

import copy
import getpass
import json
import platform
from pathlib import Path

import pytest
from record_helpers import CEILINGS, record

from benchmarks import machine, records
from benchmarks.floor import Floor, Work, copy_rate, floor_of
from benchmarks.records import Check, Ratio, Spread, Timing


def test_floor_is_the_busiest_resource() -> None:
    assert floor_of(Work(1, "x", bytes=1e8, flops=1e8), CEILINGS) == Floor(1e8 / 10e9, "memory")
    assert floor_of(Work(1, "x", bytes=1e6, flops=1e9), CEILINGS) == Floor(1e9 / 100e9, "arithmetic")
    assert floor_of(Work(1, "x", flops=8e9, precision="bf16", cores=2), CEILINGS) == Floor(0.01, "arithmetic")
    decode = floor_of(Work(1, "x", bytes=1e6, flops=1e6, jpeg_bytes=1e5, jpeg_pixels=2e5), CEILINGS)
    assert decode is not None
    assert decode.binding == "decode"
    assert decode.seconds == pytest.approx(7e-4 + 3e-4 + 1e-5)  # the same cores do both
    assert floor_of(Work(1, "x"), CEILINGS) is None


def test_floor_on_a_gpu_overlaps_all() -> None:
    assert floor_of(Work(1, "x", bytes=4e9, flops=1e9), CEILINGS, "cuda") == Floor(1e-3, "memory")
    assert floor_of(Work(1, "x", bytes=4e6, flops=8e11, precision="bf16"), CEILINGS, "cuda") == Floor(
        1e-3, "arithmetic"
    )
    assert floor_of(Work(1, "x", bytes=4e9), {**CEILINGS, "gpu": None}, "cuda") is None


def test_small_work_is_held_against_the_cache() -> None:
    assert copy_rate(CEILINGS["copy_rates"], 10) == 50e9
    assert copy_rate(CEILINGS["copy_rates"], 2e6) == 10e9
    assert copy_rate(CEILINGS["copy_rates"], 1e12) == 10e9
    assert copy_rate({"10": 1.0, "100": 3.0}, 5) == 3.0, "a slower small copy is noise; the floor stays a floor"


def test_derived_figures() -> None:
    made = record().as_dict()
    assert made["gflop_per_s"] == pytest.approx(1e8 / 2e-3 / 1e9)
    assert made["gb_per_s"] == pytest.approx(1.0)
    assert made["x_of_limit"] == pytest.approx(2.0)
    assert "2.00 x of the limit (arithmetic)" in record().line()
    assert Timing(1, 1, Spread(3, 3, 0), Spread(2, 2, 0)).quoted(cores=2) == 3
    assert Timing(1, 1, Spread(3, 3, 0), Spread(2, 2, 0), Spread(1, 1, 0)).quoted() == 1


def test_spread_and_ratio() -> None:
    assert Spread.of([5.0]) == Spread(5.0, 5.0, 0.0)
    assert Spread.of([1.0, 2.0, 3.0, 4.0, 5.0]) == Spread(3.0, 1.0, 2.0)
    assert Ratio.of([2.0]) == Ratio(2.0, 2.0, 2.0, 1)
    assert Ratio.of([1.0, 2.0, 3.0]) == Ratio(2.0, 1.5, 2.5, 3)


def test_nan_error_does_not_pass() -> None:
    assert Check("c", 1.0, 1.0).passed
    assert not Check("c", float("nan"), 1.0).passed


def test_file_is_written_and_read_back(tmp_path: Path) -> None:
    content = records.document("op", "smoke", [record(), record("eager", baseline="torch 2")], CEILINGS)
    path = records.write(content, tmp_path)
    assert path == tmp_path / content["machine"]["slug"] / "op.json"
    loaded = records.load_all(tmp_path)
    assert [each["name"] for each in loaded[0]["records"]] == ["cpp", "eager"]
    text = path.read_text()
    for private in (platform.node(), str(Path.home()), str(machine.ROOT)):
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


@pytest.mark.parametrize(
    ("cpu", "isa", "gpu", "slug"),
    [
        ("Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz", ["amx"], None, "xeon-platinum-8481c-2c"),
        ("Intel(R) Xeon(R) Processor", ["amx", "avx512"], None, "xeon-amx-2c"),
        ("AMD EPYC 9B14 96-Core Processor", [], "NVIDIA H200", "epyc-9b14-2c-h200"),
        ("", [], None, "cpu-2c"),
    ],
)
def test_slug(cpu: str, isa: list[str], gpu: str | None, slug: str) -> None:
    assert machine.slug(cpu, 2, isa, gpu) == slug


def test_committed_results_fit_the_schema() -> None:
    for content in records.load_all():
        assert "-dirty" not in content["commit"], "results of uncommitted code"
