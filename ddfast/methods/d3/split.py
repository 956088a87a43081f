"""Which classes are distilled together: blocks by strategy, or as given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ddfast._outside import read_json
from ddfast.runs import seeds

STRATEGIES = ("contiguous", "random", "confusion")
_STARTS = 8
Blocks = tuple[tuple[int, ...], ...]
_LIST = re.compile(r"\s*\d+(\s*-\s*\d+)?(\s*[,/]\s*\d+(\s*-\s*\d+)?)*\s*")


def check_split(split: str) -> None:
    """Refuses what is neither a strategy, nor a list of blocks, nor the name of a JSON file.

    Raises:
        ValueError: it is none.
    """
    if split not in STRATEGIES and not _LIST.fullmatch(split) and not split.endswith(".json"):
        raise ValueError(
            f"split: got {split!r}, expected {', '.join(STRATEGIES)}, classes of each block such as 0-4/5,7,9/6,8, or "
            "a .json file with a list of blocks"
        )


def parse_only(text: str) -> tuple[int, ...]:
    """Numbers of blocks in a list such as ``0,2-4``, ascending; ``none`` is no block.

    Raises:
        ValueError: it is no such list.
    """
    if text.strip() == "none":
        return ()
    if not _LIST.fullmatch(text) or "/" in text:
        raise ValueError(f"only_blocks: got {text!r}, expected numbers of blocks such as 0,2-4, or none")
    return tuple(sorted(set(_numbers("only_blocks", text))))


def contiguous_blocks(classes: int, blocks: int) -> Blocks:
    """Runs of the class index (D3, arXiv 2403.00999), the first ones a class longer where they cannot be equal.

    Raises:
        ValueError: fewer than two classes for a block.
    """
    return _cut(np.arange(classes), blocks)


def random_blocks(classes: int, blocks: int, seed: int) -> Blocks:
    """Classes drawn at random, a function of the seed; sizes as in `contiguous_blocks`."""
    return _cut(seeds.permutation(seed, "d3/split", 0, classes), blocks)


def confusion_blocks(confusion: NDArray[np.float64], blocks: int) -> Blocks:
    """Classes that are confused with each other go into the same block; sizes as in `contiguous_blocks`.

    With ``a_ij = p_ij + p_ji`` off the diagonal, the sum of ``a`` over pairs in the same block is made large: blocks
    are filled one after the other, each from the class that is most confused with those left, always taking the class
    that adds most; then the two classes of different blocks whose exchange adds most are exchanged until none adds
    anything. The same exchanges begin from eight random splits; the best of all is taken. Ties go to the lowest index.

    Together rather than apart: only within a block do experts, matching and hard labels work on telling classes apart.
    What different blocks have in common is left to the soft labels, which suffice for classes that are not alike.

    Args:
        confusion: float [C, C], row i the mean prediction p_i. for pictures of class i.
        blocks: how many.

    Raises:
        ValueError: not square, not finite, or fewer than two classes for a block.
    """
    given = np.asarray(confusion, dtype=np.float64)
    if given.ndim != 2 or given.shape[0] != given.shape[1] or not np.isfinite(given).all():
        raise ValueError(f"confusion: got shape {list(given.shape)}, expected finite numbers [C, C]")
    affinity = given + given.T
    np.fill_diagonal(affinity, 0.0)
    sizes = [len(block) for block in contiguous_blocks(len(given), blocks)]
    plain = np.repeat(np.arange(blocks), sizes)
    starts = [_grown(affinity, sizes)]
    starts += [plain[seeds.permutation(0, "d3/split/confusion", start, len(given))] for start in range(_STARTS)]
    ends = [_exchanged(affinity, start, blocks) for start in starts]
    owner = max(ends, key=lambda end: float(affinity[end[:, None] == end[None]].sum()))
    return _ordered([tuple(np.flatnonzero(owner == block).tolist()) for block in range(blocks)])


def given_blocks(split: str, class_names: Sequence[str]) -> Blocks:
    """The blocks of a list such as ``0-4/5,7,9/6,8`` or of a JSON file: a list of lists of class numbers or names, or
    a mapping with such a list under ``blocks``.

    Raises:
        ValueError: they do not cover the classes once each, or a block has fewer than two; names class and block.
        FileNotFoundError: no such file.
    """
    if not split.endswith(".json"):
        return check_blocks([_numbers("split", part) for part in split.split("/")], class_names)
    path = Path(split)
    if not path.is_file():
        raise FileNotFoundError(f"split: no file {path}")
    try:
        content: Any = read_json(path, follow=True)
    except ValueError as error:
        raise ValueError(f"split: {path} is not JSON ({error})") from error
    content = content.get("blocks") if isinstance(content, dict) else content
    if not isinstance(content, list) or not all(isinstance(block, list) for block in content):
        raise ValueError(f"split: {path} holds no list of blocks, such as [[0, 1], [2, 3]]")
    return check_blocks(content, class_names)


def check_blocks(blocks: Sequence[Sequence[int | str]], class_names: Sequence[str]) -> Blocks:
    """The blocks by class number, each ascending.

    Args:
        blocks: of class numbers or names.
        class_names: of the whole set.

    Raises:
        ValueError: a class is unknown, in two blocks or in none; or a block has fewer than two: one class alone leaves
            its experts nothing to learn.
    """
    numbers = {name: label for label, name in enumerate(class_names)}
    where: dict[int, int] = {}
    for place, block in enumerate(blocks):
        for entry in block:
            label = numbers.get(entry) if isinstance(entry, str) else entry
            if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < len(class_names):
                raise ValueError(
                    f"split: block {place} names class {entry!r}, expected 0 to {len(class_names) - 1} or a name"
                )
            if label in where:
                twice = "twice" if where[label] == place else f"and in block {where[label]}"
                raise ValueError(
                    f"split: class {label} ({class_names[label]}) is in block {place} {twice}, expected one"
                )
            where[label] = place
        if len(block) < 2:
            held = f"class {block[0]} alone" if block else "no class"
            raise ValueError(f"split: block {place} has {held}, expected two or more classes to tell apart")
    left = [f"{label} ({name})" for label, name in enumerate(class_names) if label not in where]
    if left:
        raise ValueError(f"split: no block has class {', '.join(left[:10])}{' ...' if len(left) > 10 else ''}")
    return tuple(tuple(sorted(label for label, own in where.items() if own == place)) for place in range(len(blocks)))


def _numbers(name: str, part: str) -> list[int]:
    """Of ``5,7-9``, an option's."""
    ends = [[int(end) for end in piece.split("-")] for piece in part.split(",")]
    if backwards := [end for end in ends if end[-1] < end[0]]:
        first, last = backwards[0]
        raise ValueError(f"{name}: got {first}-{last}, expected the smaller number first: {last}-{first}")
    return list(chain.from_iterable(range(end[0], end[-1] + 1) for end in ends))


def _cut(order: NDArray[np.int64], blocks: int) -> Blocks:
    if not 1 <= blocks <= max(len(order) // 2, 1):
        raise ValueError(
            f"blocks: got {blocks} for {len(order)} classes, expected at most {max(len(order) // 2, 1)}: a block needs "
            "two classes to tell apart"
        )
    return tuple(tuple(sorted(part.tolist())) for part in np.array_split(order, blocks))


def _ordered(blocks: list[tuple[int, ...]]) -> Blocks:
    return tuple(sorted(blocks, key=lambda block: (-len(block), block)))


def _grown(affinity: NDArray[np.float64], sizes: list[int]) -> NDArray[np.int64]:
    """int64 [C]: the block of each class, filled one after the other."""
    owner = np.full(len(affinity), -1)
    for block, size in enumerate(sizes):
        free = owner < 0
        gain = affinity[:, free].sum(1)  # of the first: how much it is confused with all that are left
        for _ in range(size):
            chosen = int(np.where(owner < 0, gain, -np.inf).argmax())
            owner[chosen] = block
            gain = affinity[:, owner == block].sum(1)
    return owner


def _exchanged(affinity: NDArray[np.float64], start: NDArray[np.int64], blocks: int) -> NDArray[np.int64]:
    """Pairs are exchanged, best first, until no exchange adds to the sum."""
    owner: NDArray[np.int64] = start.copy()
    classes = np.arange(len(owner))
    tiny = 1e-12 * max(float(affinity.sum()), 1e-300)
    while True:
        towards = affinity @ np.eye(blocks)[owner]  # [C, blocks]
        own = towards[classes, owner]
        there = towards[:, owner]  # [i, j]: what i has with j's block
        gain = there - own[:, None] + (there - own[:, None]).T - 2 * affinity
        gain[owner[:, None] == owner[None]] = 0.0
        i, j = divmod(int(gain.argmax()), len(owner))
        if gain[i, j] <= tiny:
            return owner
        owner[i], owner[j] = owner[j], owner[i]
