"""Label-robust and augmentation-robust scores of DD-Ranking (Li et al., arXiv 2505.13300), in fractions.

The published program feeds percent into the exponential, which turns good methods into values far above 1; here every
accuracy is a fraction in [0, 1], as the definition means it. The accuracies are those of this package's protocol (last
epoch, the recipe's rate), not of DD-Ranking's (best test, a search for the rate), so scores are not comparable with its
leaderboard.
"""

from __future__ import annotations

import math

_LOW, _HIGH = math.exp(-1.0), math.e


def hard_label_recovery(full: float, distilled_hard: float) -> float:
    """HLR = accuracy of a student of all real data - accuracy of one of the distilled images with hard labels.

    Smaller is better.

    Args:
        full: top-1 in [0, 1] of a student trained on the whole real set with hard labels.
        distilled_hard: top-1 in [0, 1] of a student trained on the distilled images with hard labels.

    Raises:
        ValueError: an accuracy outside [0, 1] (percent, for instance).
    """
    return _fraction("full", full) - _fraction("distilled_hard", distilled_hard)


def improvement_over_random(distilled: float, random: float) -> float:
    """IOR = accuracy on the distilled set - accuracy on a random real subset of the same IPC, same labels and recipe.

    Raises:
        ValueError: an accuracy outside [0, 1].
    """
    return _fraction("distilled", distilled) - _fraction("random", random)


def label_robust_score(hlr: float, ior: float, weight: float = 0.5) -> float:
    """LRS = (exp(a) - exp(-1)) / (e - exp(-1)) with a = weight * IOR - (1 - weight) * HLR.

    Args:
        hlr, ior: fractions in [-1, 1].
        weight: of IOR, in [0, 1]; 0.5 on the leaderboard.

    Returns:
        A score in [0, 1]; larger is better, 0.269 means neither gain nor loss.

    Raises:
        ValueError: a value outside its range.
    """
    share = _fraction("weight", weight)
    return _normalised(share * _difference("ior", ior) - (1 - share) * _difference("hlr", hlr))


def augmentation_robust_score(gain: float, gain_plain: float, weight: float = 0.5) -> float:
    """ARS: as LRS with b = weight * gain + (1 - weight) * gain_plain.

    Args:
        gain: accuracy over random with the method's augmentation, a fraction in [-1, 1].
        gain_plain: the same without augmentation.
        weight: of the first, in [0, 1]; 0.5 on the leaderboard.

    Raises:
        ValueError: a value outside its range.
    """
    share = _fraction("weight", weight)
    return _normalised(share * _difference("gain", gain) + (1 - share) * _difference("gain_plain", gain_plain))


def _normalised(value: float) -> float:
    return (math.exp(value) - _LOW) / (_HIGH - _LOW)


def _fraction(name: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}: got {value!r}, expected a fraction in [0, 1] (divide percent by 100)")
    return value


def _difference(name: str, value: float) -> float:
    if not -1.0 <= value <= 1.0:
        raise ValueError(f"{name}: got {value!r}, expected a fraction in [-1, 1] (divide percent by 100)")
    return value
