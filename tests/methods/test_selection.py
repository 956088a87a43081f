"""Selection from intervals equals selection by the exact scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddfast.methods.rded.scorer import loss_to_margin
from ddfast.methods.rded.selection import Level, margin_to_loss, open_crops, plain_order, select


def exact_levels(truth: np.ndarray, noise: list[float], rng: np.random.Generator) -> tuple[np.ndarray, list[Level]]:
    """Levels with errors uniform in +-noise around the truth; the last one exact."""
    views = [truth + rng.uniform(-n, n, truth.shape) for n in noise] + [truth]
    levels = [
        Level(f"level{i}", d, lambda images, crops, view=view: view[images, crops])
        for i, (view, d) in enumerate(zip(views, [*noise, 0.0], strict=True))
    ]
    return views[0], levels


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6), st.sampled_from([0.0, 0.01, 0.3, 3.0]),
    st.sampled_from([0.0, 1.0]),
)  # fmt: skip
def test_selection_is_that_of_the_exact_scores(seed: int, n: int, m: int, noise: float, ties: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, m))
    if ties:
        truth = np.round(truth, 1)
    keep = int(rng.integers(1, n + 1))
    t0, levels = exact_levels(truth, [noise, noise / 10], rng)
    chosen = select(t0, keep, levels)
    images, crops = plain_order(truth, keep)
    np.testing.assert_array_equal(chosen.images, images)
    np.testing.assert_array_equal(chosen.crops, crops)
    if len(set(truth.ravel())) == truth.size:  # only what is open is known exactly
        assert np.abs(chosen.t - truth[images, crops]).max() <= noise


def test_clear_cases_are_not_rescored() -> None:
    t = np.array([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [9.0, 9.1]])
    assert not open_crops(t, np.full(t.shape, 0.4), 3).any()
    assert open_crops(t, np.full(t.shape, 0.6), 3)[:3, 0].all()
    assert not open_crops(t, np.full(t.shape, 0.6), 3)[3].any()


def test_a_bound_that_is_too_tight_is_widened() -> None:
    truth = np.array([[0.0], [1.0], [2.0], [3.0]])
    fast = np.array([[1.02], [1.0], [2.0], [3.0]])  # wrong by 1.02 at the first row, bound says 0.05
    levels = [Level("fast", 0.05), Level("exact", 0.0, lambda i, c: truth[i, c])]
    chosen = select(fast, 3, levels)
    np.testing.assert_array_equal(chosen.images, [0, 1, 2])
    assert levels[0].widened >= 1
    assert levels[0].worst == pytest.approx(1.02)
    assert chosen.changed == 2


def test_margin_and_loss_are_inverse() -> None:
    t = np.array([-80.0, -30.0, -1.0, 0.0, 1.0, 29.0, 31.0, 500.0])
    back = loss_to_margin(torch.from_numpy(margin_to_loss(t)))
    np.testing.assert_allclose(back.numpy(), t, rtol=1e-9, atol=1e-9)
    ends = loss_to_margin(torch.tensor([0.0, torch.inf, torch.nan]))
    assert ends[:2].tolist() == [-np.inf, np.inf]
    assert ends[2].isnan()


def test_refuses_nan_and_too_few() -> None:
    with pytest.raises(ValueError, match="NaN"):
        select(np.array([[np.nan]]), 1, [Level("a", 0.0)])
    with pytest.raises(ValueError, match="keep"):
        select(np.zeros((2, 1)), 3, [Level("a", 0.0)])


def test_a_first_level_as_good_as_the_second_is_no_more_certain_than_that() -> None:
    """bf16 that really ran in float32 differs from it by nothing, yet both are as far from float64."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        truth = rng.normal(0, 1e-3, (60, 3))
        noisy = truth + rng.uniform(-2e-5, 2e-5, truth.shape)
        levels = [
            Level("bf16", 1e-9), Level("fp32", 1.6e-4, lambda i, c, t=noisy: t[i, c]),
            Level("fp64", 0.0, lambda i, c, t=truth: t[i, c]),
        ]  # fmt: skip
        images, crops = plain_order(truth, 20)
        chosen = select(noisy, 20, levels)
        np.testing.assert_array_equal(chosen.images, images)
        np.testing.assert_array_equal(chosen.crops, crops)
