"""The table of ops with what was measured, from ``benchmarks/results`` alone."""

from __future__ import annotations

from benchmarks.ops_table import ops_table
from benchmarks.records import load_all


def ops() -> str:
    """Every op, its back ends and its speed."""
    return ops_table(load_all())
