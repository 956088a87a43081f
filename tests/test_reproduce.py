"""Reproductions: one call from data to table, which can be stopped anywhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ddfast import reproduce as module
from ddfast.reproduce import REPRODUCTIONS, Published, Reproduction, markdown, reproduce
from ddfast.runs import RunError
from ddfast.train import TrainConfig
from tests.evaluation.eval_case import pictures

TINY = Reproduction(
    name="tiny",
    about="colours",
    dataset="CIFAR10",
    pictures=(3, 20),
    test_pictures=(3, 6),
    network="conv3",
    size=16,
    preset="cifar10",
    observer=TrainConfig(epochs=2, batch_size=16, lr=0.05),
    observer_top1=90.0,
    published={1: Published(50.0, 0.3), 2: Published(60.0, 0.2)},
    source="nowhere",
    settings={"epochs": 2, "curve_points": 2, "width": 8},
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(REPRODUCTIONS, "tiny", TINY)
    (x, y), (x_test, y_test) = pictures(20, 1), pictures(6, 2)
    np.savez(tmp_path / "colours.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    return tmp_path / "colours.npz"


def test_stopped_anywhere_it_ends_in_the_same_table(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(out: str) -> dict[str, object]:
        return reproduce("tiny", tmp_path / out, data=data, seeds=2, device="cpu", processes=1, quiet=True)

    whole = call("whole")

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for name in ("distill_to", "evaluate", "make_table"):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, stop)
            with pytest.raises(KeyboardInterrupt):
                call("stopped")
    assert call("stopped") == whole
    assert json.loads((tmp_path / "stopped/table.json").read_text()) == whole
    assert (tmp_path / "stopped/table.md").read_text() == (tmp_path / "whole/table.md").read_text()
    assert call("stopped") == whole  # nothing left to do


def test_table_says_what_was_measured(data: Path, tmp_path: Path) -> None:
    table = reproduce("tiny", tmp_path / "out", data=data, seeds=2, device="cpu", processes=1, quiet=True)
    assert [row["ipc"] for row in table["rows"]] == [1, 2]
    assert table["test_pictures"] == 18
    assert table["students"] == 2
    for row in table["rows"]:
        assert row["distilled"]["best"]["mean"] >= row["distilled"]["last"]["mean"]
    text = markdown(table)
    assert "| 1 | 50.0 ± 0.3 |" in text
    assert f"reaches {table['observer']['top1']:.1f} % (published: 90.0 %)" in text


def test_other_data_are_refused(data: Path, tmp_path: Path) -> None:
    (x, y), (x_test, y_test) = pictures(21, 1), pictures(6, 2)
    np.savez(tmp_path / "more.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.raises(ValueError, match="data: more has 3 classes of 21 to 21 pictures, expected 3 of 20 for tiny"):
        reproduce("tiny", tmp_path / "out", data=tmp_path / "more.npz", device="cpu", quiet=True)
    reproduce("tiny", tmp_path / "out", data=data, seeds=1, device="cpu", processes=1, quiet=True)
    (x, y), _ = pictures(20, 5), None
    np.savez(tmp_path / "other.npz", x_train=x, y_train=y, x_test=x_test, y_test=y_test)
    with pytest.raises(RunError, match="the observer there was trained on other data"):
        reproduce("tiny", tmp_path / "out", data=tmp_path / "other.npz", seeds=1, device="cpu", quiet=True)


def test_unknown_name_and_missing_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="name: got 'nothing', expected one of rded-cifar10-conv3"):
        reproduce("nothing", tmp_path)
    with pytest.raises(ValueError, match="seeds: got 0, expected 1 or more"):
        reproduce("d3-small", tmp_path / "none", seeds=0)
    assert not (tmp_path / "none").exists()
    from torchvision import datasets

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(datasets, "CIFAR10", offline)
    with pytest.raises(ValueError, match=r"data: CIFAR10 could not be downloaded \(no network\).*--data"):
        reproduce("rded-cifar10-conv3", tmp_path)


def test_the_committed_result_has_the_published_figures() -> None:
    root = Path(__file__).resolve().parent.parent
    result = root / "benchmarks/reproduced/rded-cifar10-conv3.json"
    table = json.loads(result.read_text())
    wanted = REPRODUCTIONS[table["name"]]
    assert [row["published"] for row in table["rows"]] == [dataclasses.asdict(p) for p in wanted.published.values()]
