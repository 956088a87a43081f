"""The rate of a run leaves out the pictures that were decoded while the pipeline filled."""

from __future__ import annotations

import pytest

from ddfast.bench.end_to_end import steady_rate


def test_only_what_is_done_after_the_first_quarter_counts() -> None:
    marks = [(10.0, 64), (10.01, 128), (10.02, 300), (11.0, 600), (12.0, 1000)]
    assert steady_rate(marks, 12.5) == pytest.approx((1000 - 300) / (12.5 - 10.02))


def test_a_single_mark_before_the_end_is_all_there_is() -> None:
    assert steady_rate([(1.0, 10), (2.0, 40)], 3.0) == pytest.approx(30 / 2)
