"""Splits of the classes into blocks."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ddfast.methods.d3.config import D3Config
from ddfast.methods.d3.split import (
    check_blocks,
    check_split,
    confusion_blocks,
    contiguous_blocks,
    given_blocks,
    parse_only,
    random_blocks,
)

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")


def within(confusion: np.ndarray, blocks: tuple[tuple[int, ...], ...]) -> float:
    affinity = confusion + confusion.T
    return float(sum(affinity[i, j] for block in blocks for i, j in combinations(block, 2)))


def every_halving(classes: int) -> list[tuple[tuple[int, ...], ...]]:
    halves = combinations(range(classes), classes // 2)
    return [(half, tuple(sorted(set(range(classes)) - set(half)))) for half in halves]


def test_contiguous_and_random_blocks_cover_all_in_even_sizes() -> None:
    assert contiguous_blocks(1000, 5) == tuple(tuple(range(k * 200, (k + 1) * 200)) for k in range(5))
    assert contiguous_blocks(7, 3) == ((0, 1, 2), (3, 4), (5, 6))
    drawn = random_blocks(7, 3, seed=1)
    assert sorted(sum(drawn, ())) == list(range(7))
    assert [len(block) for block in drawn] == [3, 2, 2]
    assert drawn == random_blocks(7, 3, seed=1)
    assert len({random_blocks(20, 2, seed=seed) for seed in range(5)}) == 5
    with pytest.raises(ValueError, match="blocks: got 4 for 7 classes, expected at most 3"):
        contiguous_blocks(7, 4)


@pytest.mark.parametrize("seed", range(8))
def test_confused_classes_go_together(seed: int) -> None:
    """As good as the best of all splits of ten classes; three clear groups are found exactly."""
    confusion = np.random.default_rng(seed).dirichlet(np.full(10, 0.3), 10)
    found = confusion_blocks(confusion, 2)
    assert sorted(sum(found, ())) == list(range(10))
    every = [within(confusion, blocks) for blocks in every_halving(10)]
    assert within(confusion, found) >= 0.999 * max(every)
    groups = np.random.default_rng(seed).permutation(12).reshape(3, 4)
    clear = np.full((12, 12), 0.01)
    for group in groups:
        clear[np.ix_(group, group)] = 0.2
    assert set(confusion_blocks(clear, 3)) == {tuple(sorted(group.tolist())) for group in groups}


def test_uneven_sizes_and_ties() -> None:
    assert confusion_blocks(np.zeros((5, 5)), 2) == ((0, 1, 2), (3, 4))
    with pytest.raises(ValueError, match=r"confusion: got shape \[2, 3\]"):
        confusion_blocks(np.zeros((2, 3)), 1)
    with pytest.raises(ValueError, match="finite"):
        confusion_blocks(np.full((4, 4), np.nan), 2)


def test_given_blocks(tmp_path: Path) -> None:
    assert given_blocks("0-2/5,3,4", NAMES) == ((0, 1, 2), (3, 4, 5))
    file = tmp_path / "split.json"
    file.write_text(json.dumps([["fox", "ant", 2], ["bee", "dog", 4]]))
    assert given_blocks(str(file), NAMES) == ((0, 2, 5), (1, 3, 4))
    file.write_text(json.dumps({"strategy": "confusion", "blocks": [[0, 1, 2, 3], [4, 5]]}))
    assert given_blocks(str(file), NAMES) == ((0, 1, 2, 3), (4, 5))


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([[0, 1, 2], [4, 5]], r"no block has class 3 \(dog\)"),
        ([[0, 1, 2, 3], [3, 4, 5]], r"class 3 \(dog\) is in block 1 and in block 0"),
        ([[0, 0, 1, 2, 3], [4, 5]], r"class 0 \(ant\) is in block 0 twice"),
        ([[0, 1, 2, 3, 4, 5], []], "block 1 has no class"),
        ([[0, 1, 2, 3, 4], [5]], "block 1 has class 5 alone"),
        ([[0, 1, 2], [3, 4, 6]], "block 1 names class 6, expected 0 to 5"),
        ([[0, 1, 2], [3, 4, "gnu"]], "block 1 names class 'gnu'"),
        ([[0, 1, 2], [3, 4, True]], "block 1 names class True"),
    ],
)
def test_blocks_that_do_not_cover_or_overlap_are_named(blocks: list[list[int | str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_blocks(blocks, NAMES)


def test_other_texts_are_refused(tmp_path: Path) -> None:
    for text in ("confused", "0-4//5", "0,1;2,3", ""):
        with pytest.raises(ValueError, match="split: got"):
            check_split(text)
    with pytest.raises(ValueError, match="split: got 'halves'"):
        D3Config(split="halves")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        given_blocks("nowhere.json", NAMES)
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        given_blocks(str(tmp_path / "bad.json"), NAMES)
    (tmp_path / "bad.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="no list of blocks"):
        given_blocks(str(tmp_path / "bad.json"), NAMES)


def test_numbers_of_blocks() -> None:
    assert parse_only("2,0, 4-5,2") == (0, 2, 4, 5)
    assert parse_only("none") == ()
    for text in ("", "a", "1/2", "-1"):
        with pytest.raises(ValueError, match="only_blocks: got"):
            parse_only(text)
    with pytest.raises(ValueError, match="only_blocks: got 3-1, expected the smaller number first: 1-3"):
        parse_only("0,3-1")  # not "none"
    with pytest.raises(ValueError, match="split: got 5-4, expected the smaller number first"):
        given_blocks("0-3,5-4/4,5", NAMES)
