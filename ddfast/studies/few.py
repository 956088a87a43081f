"""As many pictures of a bigger set as a study is made for."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any

from ddfast.data import Source
from ddfast.runs import seeds


class Few:
    """``each`` pictures of every class of a source, drawn at random, always the same ones."""

    def __init__(self, source: Source, each: int) -> None:
        self._source, self._each = source, each
        self.name, self.class_names = source.name, source.class_names

    @cached_property
    def _chosen(self) -> list[list[int]]:
        counts = [self._source.count(label) for label in range(len(self.class_names))]
        drawn = (seeds.permutation(0, "few", label, count) for label, count in enumerate(counts))
        return [sorted(order[: self._each].tolist()) for order in drawn]

    def count(self, label: int) -> int:
        """See `ddfast.data.Source`."""
        return len(self._chosen[label])

    def sample_id(self, label: int, position: int) -> str:
        """See `ddfast.data.Source`."""
        return self._source.sample_id(label, self._chosen[label][position])

    def load(self, label: int, position: int) -> Any:
        """See `ddfast.data.Source`."""
        return self._source.load(label, self._chosen[label][position])

    def fingerprint(self) -> str:
        """See `ddfast.data.Source`."""
        return hashlib.sha256(f"{self._source.fingerprint()} {self._each}".encode()).hexdigest()


def few(source: Source, each: int) -> Source:
    """The source itself where it has ``each`` pictures of every class, or so many of a bigger one.

    Raises:
        ValueError: a class has fewer.
    """
    counts = [source.count(label) for label in range(len(source.class_names))]
    if min(counts) < each:
        name = source.class_names[counts.index(min(counts))]
        raise ValueError(f"data: {source.name} has {min(counts)} pictures of class {name}, expected {each} or more")
    return source if set(counts) == {each} else Few(source, each)
