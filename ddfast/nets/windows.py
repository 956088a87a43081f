"""Which part of a feature map a small patch on a constant canvas can influence: intervals for conv and pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Span:
    """Half-open interval ``lo:hi`` of active rows (or columns) in a map of ``size`` rows."""

    lo: int
    hi: int
    size: int

    def __len__(self) -> int:
        return self.hi - self.lo

    @property
    def full(self) -> bool:
        return self.lo == 0 and self.hi == self.size

    def union(self, other: Span) -> Span:
        if self.size != other.size:
            raise ValueError(f"cannot unite spans of maps of size {self.size} and {other.size}")
        return Span(min(self.lo, other.lo), max(self.hi, other.hi), self.size)

    def shift(self, before: int, after: int) -> Span:
        """The same interval after the map was padded by ``before`` and ``after`` rows."""
        return Span(self.lo + before, self.hi + before, self.size + before + after)


@dataclass(frozen=True)
class Kernel:
    """Sliding window along one axis: side ``k``, stride ``s``, padding ``p`` on both sides, dilation ``d``."""

    k: int
    s: int
    p: int
    d: int = 1

    @property
    def reach(self) -> int:
        return (self.k - 1) * self.d

    def active(self, span: Span, out_size: int) -> Span:
        """Outputs whose window meets ``span``: o with o*s - p <= hi - 1 and o*s - p + (k - 1)*d >= lo."""
        lo = max(0, -((self.reach - self.p - span.lo) // self.s))
        hi = min(out_size, (span.hi - 1 + self.p) // self.s + 1)
        return Span(lo, max(lo, hi), out_size)

    def read(self, out: Span) -> tuple[int, int]:
        """Input rows ``first:last`` that the outputs ``out`` read; may stick out of the map by the padding."""
        return out.lo * self.s - self.p, (out.hi - 1) * self.s - self.p + self.reach + 1


Window = tuple[Span, Span]
"""Active (rows, columns) of a feature map."""


def union(a: Window, b: Window) -> Window:
    return a[0].union(b[0]), a[1].union(b[1])


def is_full(window: Window) -> bool:
    return window[0].full and window[1].full


def is_empty(window: Window) -> bool:
    return len(window[0]) <= 0 or len(window[1]) <= 0


def share(window: Window) -> float:
    """Active share of the area of the map."""
    return len(window[0]) * len(window[1]) / (window[0].size * window[1].size)


def margins(inner: Window, outer: tuple[tuple[int, int], tuple[int, int]]) -> tuple[int, int, int, int]:
    """Padding (left, right, top, bottom), as F.pad wants it, that grows ``inner`` to rows and columns ``outer``."""
    (r0, r1), (c0, c1) = outer
    rows, cols = inner
    return cols.lo - c0, c1 - cols.hi, rows.lo - r0, r1 - rows.hi
