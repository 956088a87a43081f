"""Studies: one call from data to tables, which can be stopped anywhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ddfast
from ddfast import reproduce as command
from ddfast.data import open_source
from ddfast.runs import RunError
from ddfast.studies import STUDIES, Judged, Made, Study, Table, engine, markdown, run_study
from ddfast.studies.few import few
from ddfast.studies.tables import cell
from tests.evaluation.eval_case import pictures

ROOT = Path(__file__).resolve().parent.parent.parent
_NET: dict[str, Any] = {"size": 16, "depth": 2, "width": 8, "test": "none", "batch_real": 4, "lr_img": 5.0}
_STUDENTS: dict[str, Any] = {"students": "conv2_instance", "width": 8, "epochs": 3}
TINY = Study(
    name="tiny",
    about="colours",
    data=None,
    sets={
        "dm": Made("dm", {**_NET, "ipc": 2, "iterations": 2}),
        "pdd": Made("pdd", {
            "base": "dm", "stages": 2, "ipc_per_stage": 1, "pool": 1, "transition_epochs": 2,
            "base_option": {**_NET, "iterations": 1},
        }),
    },
    judged={
        "dm": Judged(("dm",), {"preset": "dsa", "seeds": 2, "teacher": "none", "byte_control": False, **_STUDENTS}),
        "pdd": Judged(("pdd",), {"preset": "dsa", "seeds": 2, "teacher": "none", "controls": False, **_STUDENTS}),
        "memory": Judged(("dm", "pdd"), {"steps": 3, "orders": 1, "seeds": 1, **_STUDENTS}, "continual"),
    },
    tables=(
        Table("Accuracy", ("set", "distilled", "random"), (("dm", "dm/distilled", "dm/random-images"),)),
        Table("Difference", ("set", "more than dm"), (("pdd", "pdd/distilled - dm/distilled"),)),
        Table("Memory", ("memory", "2 classes"), (("dm", "memory/dm 2"),)),
    ),
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (x, y), (x_test, y_test) = pictures(8, 1), pictures(6, 2)
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return tmp_path / "colours.npz"


def _run(study: Study, out: Path, data: Path, seeds: int = 2) -> dict[str, Any]:
    return {**run_study(study, out, data=data, seeds=seeds, device="cpu", processes=1, quiet=True), "cpu_minutes": None}


def test_stopped_anywhere_it_ends_in_the_same_tables(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _run(TINY, tmp_path / "whole", data)
    for name in ("distill_to", "evaluate", "continual", "markdown"):
        calls: list[Any] = []
        real = getattr(engine, name)

        def stop(*given: Any, calls: list[Any] = calls, real: Any = real, **named: Any) -> Any:
            calls.append(given)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(engine, name, stop)
            with pytest.raises(KeyboardInterrupt):
                _run(TINY, tmp_path / "stopped", data)
    assert _run(TINY, tmp_path / "stopped", data) == whole
    assert (tmp_path / "stopped/table.md").read_text() == "\n".join(markdown(each, whole) for each in TINY.tables)
    with monkeypatch.context() as patch:  # nothing left to do
        patch.setattr(engine._Run, "_do", None)
        assert _run(TINY, tmp_path / "stopped", data) == whole
        assert len(_run(TINY, tmp_path / "stopped", data, seeds=1)["values"]["dm/distilled"]) == 1


def test_values_are_those_of_the_calls_that_it_stands_for(data: Path, tmp_path: Path) -> None:
    table = _run(TINY, tmp_path / "out", data)
    for name in ("dm", "pdd"):
        made = TINY.sets[name]
        one = ddfast.distill(made.method, data, seed=1, device="cpu", quiet=True, **made.options)
        report = ddfast.evaluate(
            one, f"{data}:test", train=data, seed=1000, device="cpu", processes=1, quiet=True,
            **TINY.judged[name].settings,
        )  # fmt: skip
        assert table["values"][f"{name}/distilled"][1] == pytest.approx(report.top1("distilled")["values"], abs=1e-5)
    assert len(table["values"]["memory/pdd average"]) == 2
    assert table["data"] == {"colours": 24, "colours:test": 18}


def test_other_settings_and_data_are_refused(data: Path, tmp_path: Path) -> None:
    one = replace(TINY, judged={"dm": TINY.judged["dm"]}, sets={"dm": TINY.sets["dm"]}, tables=())
    _run(one, tmp_path / "out", data, seeds=1)
    other = replace(one, sets={"dm": Made("dm", {**TINY.sets["dm"].options, "iterations": 3})})
    with pytest.raises(RunError, match=r"seed0/sets/dm.json: was made with sets .*'iterations': 2.*'iterations': 3"):
        _run(other, tmp_path / "out", data, seeds=1)
    longer = replace(one, judged={"dm": Judged(("dm",), {**TINY.judged["dm"].settings, "epochs": 4})})
    with pytest.raises(RunError, match=r"seed0/judged/dm.json: was made with settings .*'epochs': 3"):
        _run(longer, tmp_path / "out", data, seeds=1)
    (x, y), (x_test, y_test) = pictures(8, 5), pictures(6, 2)
    np.savez(tmp_path / "more.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.raises(RunError, match="was made with data"):
        _run(one, tmp_path / "out", tmp_path / "more.npz", seeds=1)
    with pytest.raises(ValueError, match="data: tiny has none of its own"):
        run_study(one, tmp_path / "none", quiet=True)
    with pytest.raises(ValueError, match="judged: dm is of 'dm'"):
        replace(one, sets={})


def test_a_bigger_set_gives_as_many_pictures_as_asked(data: Path, tmp_path: Path) -> None:
    source = open_source(data)
    assert few(source, 8) is source
    part, again = few(source, 5), few(source, 5)
    ids = [[part.sample_id(label, place) for place in range(part.count(label))] for label in range(3)]
    assert [len(set(each)) for each in ids] == [5, 5, 5]
    assert ids == [[again.sample_id(label, place) for place in range(5)] for label in range(3)]
    known = {source.sample_id(1, place): source.load(1, place) for place in range(8)}
    for place in range(5):
        assert np.array_equal(part.load(1, place), known[part.sample_id(1, place)])
    assert len({part.fingerprint(), few(source, 4).fingerprint(), source.fingerprint()}) == 3
    with pytest.raises(ValueError, match="data: colours has 8 pictures of class 0, expected 9 or more"):
        few(source, 9)
    one = replace(TINY, judged={"dm": TINY.judged["dm"]}, sets={"dm": TINY.sets["dm"]}, tables=(), pictures=(5, 3))
    assert _run(one, tmp_path / "out", data, seeds=1)["data"] == {"colours": 15, "colours:test": 9}


def test_cells() -> None:
    values = {"a": [[0.5, 0.6], [0.7, 0.8]], "b": [[0.5, 0.4], [0.6, 0.6]]}
    assert cell("a", values) == f"65.0 ± {100 * np.std([0.5, 0.6, 0.7, 0.8], ddof=1):.1f}"
    assert cell("a - b", values) == f"+12.5 ± {100 * np.std([0.1, 0.15], ddof=1):.1f}"
    assert cell("", values) == ""
    with pytest.raises(KeyError, match="c: no such result"):
        cell("a - c", values)
    with pytest.raises(ValueError, match="rows: 'x' has 1 cells, expected 2"):
        Table("t", ("one", "two"), (("x",),))


def test_command_runs_a_study(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = replace(TINY, judged={"dm": TINY.judged["dm"]}, sets={"dm": TINY.sets["dm"]}, tables=TINY.tables[:0])
    monkeypatch.setitem(STUDIES, "tiny", one)
    table = command.reproduce("tiny", tmp_path / "out", data=data, seeds=1, device="cpu", processes=1, quiet=True)
    assert json.loads((tmp_path / "out/table.json").read_text()) == table
    assert command.markdown(table) == ""


_RESULTS = {path.stem: path for path in (ROOT / "benchmarks/reproduced").glob("*.json") if path.stem in STUDIES}


@pytest.mark.parametrize("name", sorted({"pdd-small", *_RESULTS}))
def test_committed_results_are_of_the_study_as_it_is(name: str) -> None:
    record, study = json.loads(_RESULTS[name].read_text()), STUDIES[name]
    made = {key: {"method": one.method, **one.options} for key, one in study.sets.items()}
    judged = {key: {"sets": list(one.sets), "call": one.call, **one.settings} for key, one in study.judged.items()}
    assert record["sets"] == json.loads(json.dumps(made))
    assert record["judged"] == json.loads(json.dumps(judged))
    for table in study.tables:
        assert markdown(table, record).startswith(f"**{table.title}**")
