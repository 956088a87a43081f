"""Seconds of a run's parts: nesting, sections, several sittings, and what a killed run keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ddfast.runs import timings
from ddfast.runs.timings import Timings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of wall time; CPU time is twice as much."""
    now = [100.0]
    monkeypatch.setattr(timings, "_now", lambda: (now[0], 2 * now[0]))
    return now


def seconds(path: Path) -> dict[tuple[str, str], tuple[float, float]]:
    parts = json.loads(path.read_text())["parts"]
    return {(each["section"], each["part"]): (each["wall"], each["cpu"]) for each in parts}


def interrupted(book: Timings, clock: list[float]) -> None:
    with book.section("stage 2"), book.part("matching"):
        clock[0] += 16
        raise KeyboardInterrupt


def test_inner_parts_are_not_counted_twice_and_sittings_add_up(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "timings.json"
    for sitting in (1, 2):
        book = Timings(path)
        clock[0] += 50  # belongs to no part
        with book.part("pictures"):
            clock[0] += 1
            with book.section("stage 1"), book.part("matching"):
                clock[0] += 2
                with book.part("tests"):
                    clock[0] += 4
                clock[0] += 8
            with pytest.raises(KeyboardInterrupt):
                interrupted(book, clock)
        expected = {("", "pictures"): 1, ("stage 1", "matching"): 10, ("stage 1", "tests"): 4}
        expected["stage 2", "matching"] = 16
        assert seconds(path) == {name: (sitting * wall, 2 * sitting * wall) for name, wall in expected.items()}
    assert book.of("matching") == (52, 104)
    assert book.lines("pdd") == [
        "pdd: 1 min 02 s (matching 84%, tests 13%, pictures 3%)",
        "  stage 1: matching 20.0 s, tests 8.0 s",
        "  stage 2: matching 32.0 s",
    ]


def test_open_parts_are_kept(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "timings.json"
    book = Timings(path)
    with book.part("experts"):
        clock[0] += 3
        book.keep()
        assert seconds(path) == {("", "experts"): (3, 6)}
        clock[0] += 4
    assert seconds(path) == {("", "experts"): (7, 14)}
    path.write_text("{")
    assert Timings(path).as_json()["parts"] == []


def test_seconds_of_several_workers_add_up(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "timings.json"
    books = [Timings(path), Timings(path)]
    for book, share in zip(books, (1, 2), strict=True):
        with book.part("experts"):
            clock[0] += share
    with books[0].part("matching"):
        clock[0] += 4
    assert seconds(path) == {("", "experts"): (3, 6), ("", "matching"): (4, 8)}
    assert books[0].lines("mtt") == ["mtt: 7 s (matching 57%, experts 43%)"]
