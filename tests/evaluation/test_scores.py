"""LRS and ARS against the definition's own numbers, in fractions."""

from __future__ import annotations

import math

import pytest

from ddfast.evaluation.scores import (
    augmentation_robust_score,
    hard_label_recovery,
    improvement_over_random,
    label_robust_score,
)

# CIFAR-10 of DD-Ranking's leaderboard: HLR and IOR in percent, LRS from the formula with w = 0.5
LEADERBOARD = [
    (52.66, 12.40, 0.191), (36.70, 18.54, 0.232), (26.31, 12.34, 0.240), (58.93, 13.16, 0.182), (35.14, 19.62, 0.237),
    (27.41, 10.96, 0.235), (61.37, 8.73, 0.170), (39.37, 16.12, 0.222), (25.06, 12.66, 0.243), (42.21, 27.62, 0.239),
    (23.73, 30.90, 0.284), (16.52, 20.52, 0.278), (26.84, 35.05, 0.287), (18.89, 23.89, 0.280), (69.86, -0.27, 0.143),
    (67.82, -5.77, 0.138), (60.58, 2.38, 0.162), (50.65, 1.11, 0.176), (51.06, 6.68, 0.184), (39.88, 9.12, 0.208),
]  # fmt: skip


@pytest.mark.parametrize(("hlr", "ior", "lrs"), LEADERBOARD)
def test_lrs_of_the_leaderboard(hlr: float, ior: float, lrs: float) -> None:
    assert label_robust_score(hlr / 100, ior / 100) == pytest.approx(lrs, abs=6e-4)


@pytest.mark.parametrize(("hlr", "ior", "lrs"), [(0.0, 0.0, 0.269), (0.68, -0.06, 0.138), (0.0, 0.40, 0.363)])
def test_lrs_anchors(hlr: float, ior: float, lrs: float) -> None:
    assert label_robust_score(hlr, ior) == pytest.approx(lrs, abs=1e-3)  # hlr and ior are given to two digits


def test_lrs_lies_between_0_and_1_and_weights_its_parts() -> None:
    assert label_robust_score(1.0, -1.0) == pytest.approx(0.0, abs=1e-12)
    assert label_robust_score(-1.0, 1.0) == pytest.approx(1.0)
    alpha = 0.3 * 0.25 - 0.7 * 0.5
    expected = (math.exp(alpha) - math.exp(-1)) / (math.e - math.exp(-1))
    assert label_robust_score(0.5, 0.25, weight=0.3) == pytest.approx(expected)


def test_ars_is_lrs_of_two_gains() -> None:
    assert augmentation_robust_score(0.0, 0.0) == pytest.approx(0.269, abs=6e-4)
    assert augmentation_robust_score(0.2, 0.1) == pytest.approx(label_robust_score(-0.1, 0.2))
    assert augmentation_robust_score(0.2, 0.1, weight=1.0) == pytest.approx(label_robust_score(0.0, 0.4))


def test_differences() -> None:
    assert hard_label_recovery(0.9, 0.4) == pytest.approx(0.5)
    assert improvement_over_random(0.4, 0.5) == pytest.approx(-0.1)


@pytest.mark.parametrize("call", [
    lambda: label_robust_score(72.0, 12.0), lambda: hard_label_recovery(90.0, 50.0),
    lambda: improvement_over_random(0.5, 50.0), lambda: augmentation_robust_score(float("nan"), 0.0),
    lambda: label_robust_score(0.1, 0.1, weight=2.0),
])  # fmt: skip
def test_percent_is_refused(call: object) -> None:
    with pytest.raises(ValueError, match="fraction"):
        call()  # type: ignore[operator]
