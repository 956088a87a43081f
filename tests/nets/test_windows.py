from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddfast.nets.windows import Kernel, Span, is_full, margins, share, union


@pytest.mark.parametrize("size", [9, 16])
@pytest.mark.parametrize(("k", "s", "p", "d"), [(1, 1, 0, 1), (1, 2, 0, 1), (3, 1, 1, 1), (3, 2, 1, 1), (5, 3, 2, 1)])
@pytest.mark.parametrize("span", [(3, 5), (0, 4), (4, 9), (8, 9), (0, 9)])
def test_active_outputs_are_those_whose_kernel_meets_the_span(
    size: int, k: int, s: int, p: int, d: int, span: tuple[int, int]
) -> None:
    mark = torch.zeros(1, 1, size, dtype=torch.float64)
    mark[..., span[0] : span[1]] = 1
    touched = F.conv1d(mark, torch.ones(1, 1, k, dtype=torch.float64), stride=s, padding=p, dilation=d)[0, 0] > 0
    where = np.flatnonzero(touched.numpy())
    found = Kernel(k, s, p, d).active(Span(*span, size), len(touched))
    if len(where) == 0:
        assert len(found) == 0
    else:
        assert (found.lo, found.hi) == (where[0], where[-1] + 1)


def test_active_outputs_of_a_dilated_kernel_are_an_interval_around_the_touched_ones() -> None:
    found = Kernel(3, 1, 2, 2).active(Span(5, 6, 11), 11)
    assert (found.lo, found.hi) == (3, 8)


def test_read_gives_the_rows_of_the_first_and_last_output() -> None:
    assert Kernel(7, 2, 3).read(Span(27, 86, 112)) == (51, 174)
    assert Kernel(3, 1, 1).read(Span(0, 8, 8)) == (-1, 9)


def test_union_share_and_margins() -> None:
    small, large = (Span(3, 5, 10), Span(2, 6, 10)), (Span(4, 7, 10), Span(0, 3, 10))
    both = union(small, large)
    assert [(s.lo, s.hi) for s in both] == [(3, 7), (0, 6)]
    assert share(both) == pytest.approx(0.24)
    assert not is_full(both)
    assert margins(small, ((1, 8), (2, 7))) == (0, 1, 2, 3)
    with pytest.raises(ValueError, match="size 10 and 11"):
        Span(0, 1, 10).union(Span(0, 1, 11))
