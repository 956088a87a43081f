"""Checks of the values in a manifest, and of the keys that not every set has."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ddfast._outside import is_safe_path
from ddfast._types import Normalization
from ddfast.store.codec import ImageFormat
from ddfast.store.formation import Formation

Check = Callable[[Any], bool]
LONGEST_SIDE = 1 << 16
LARGEST_COUNT = 1 << 53
_LARGEST_FACTOR = 64
_LARGEST_STATISTIC = 1e6  # of pixels in [0, 1], and the inverse of the smallest deviation
_NON_FINITE = ("inf", "-inf", "nan")


def is_text(value: Any) -> bool:
    """A string."""
    return isinstance(value, str)


def is_integer(value: Any) -> bool:
    """A whole number of at most 128 bits, no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 127


def is_count(value: Any) -> bool:
    """A whole number from 0 that every program can hold."""
    return is_integer(value) and 0 <= value <= LARGEST_COUNT


def is_side(value: Any) -> bool:
    """A number of pixels."""
    return is_count(value) and 0 < value <= LONGEST_SIDE


def is_number(value: Any) -> bool:
    """A finite number."""
    return is_integer(value) or (isinstance(value, float) and math.isfinite(value))


def is_score(value: Any) -> bool:
    """A number, or the text of one that is not finite."""
    return value in _NON_FINITE if isinstance(value, str) else is_number(value) or isinstance(value, float)


def is_mapping(value: Any) -> bool:
    """A mapping."""
    return isinstance(value, Mapping)


def is_box(value: Any) -> bool:
    """[top, left, height, width] in pixels."""
    if not isinstance(value, (list, tuple)) or len(value) != 4 or not all(map(is_count, value)):
        return False
    return bool(min(value[2], value[3]) > 0 and max(value) < 1 << 31)


def is_failure(value: Any) -> bool:
    """A source file that was skipped."""
    if not isinstance(value, Mapping) or not is_count(value.get("label")):
        return False
    return is_text(value.get("sample")) and is_text(value.get("reason"))


def is_image_format(value: Any) -> bool:
    """What `ImageFormat.as_json` gives."""
    return _makes(ImageFormat.from_json, value)


def is_source(value: Any) -> bool:
    """A source's name and fingerprint."""
    return isinstance(value, Mapping) and is_text(value.get("name")) and is_text(value.get("fingerprint"))


def is_observer(value: Any) -> bool:
    """An observer's entries, of which name and weights are text where they are there."""
    return is_mapping(value) and all(
        is_text(value[name]) for name in ("name", "weights") if value.get(name) is not None
    )


def is_normalization(value: Any) -> bool:
    """Three means and three positive deviations of pixels in [0, 1]."""
    if not isinstance(value, Mapping):
        return False
    if not all(list_of(is_number, 3)(value.get(name)) for name in ("mean", "std")):
        return False
    numbers = [*map(abs, value["mean"]), *value["std"]]
    if max(numbers) > _LARGEST_STATISTIC or 0 < min(value["std"]) < 1 / _LARGEST_STATISTIC:  # float32 would overflow
        return False
    return _makes(lambda known: Normalization(tuple(known["mean"]), tuple(known["std"])), value)


def is_config(value: Any) -> bool:
    """A method's settings, of which some are read again: factor, iterations and observer."""
    if not isinstance(value, Mapping):
        return False
    factor, iterations, observer = (value.get(name) for name in ("factor", "iterations", "observer"))
    return (
        (factor is None or (is_count(factor) and factor <= _LARGEST_FACTOR))
        and (iterations is None or is_count(iterations))
        and (observer is None or is_text(observer))
    )


def is_recipe(value: Any) -> bool:
    """How students are trained: texts, numbers, and for scale a pair."""
    if not isinstance(value, Mapping):
        return False
    checks: dict[str, Check] = {
        "protocol": is_text, "dsa": is_text, "augment": is_text, "weight_decay": _is_share_like, "lr": _is_share_like,
        "cutmix": _is_share_like, "flip": lambda flip: isinstance(flip, bool),
        "shift": lambda shift: is_count(shift) and shift <= LONGEST_SIDE, "scale": _is_scale,
    }  # fmt: skip
    return all(name not in value or value[name] is None or check(value[name]) for name, check in checks.items())


def is_formation(value: Any) -> bool:
    """What `Formation.as_json` gives."""
    if not isinstance(value, Mapping) or not all(map(is_count, (value.get("factor", 1), value.get("cap", 1)))):
        return False
    return value.get("factor", 1) <= _LARGEST_FACTOR and _makes(Formation.from_json, value)


def is_rate(value: Any) -> bool:
    """A learning rate."""
    return is_number(value) and 0 < value < 1e6


def or_null(check: Check) -> Check:
    """``check``, or None."""
    return lambda value: value is None or check(value)


def list_of(check: Check, length: int | None = None) -> Check:
    """A list whose entries pass ``check``."""
    return lambda value: (
        isinstance(value, (list, tuple)) and (length is None or len(value) == length) and all(map(check, value))
    )


def _is_scale(value: Any) -> bool:
    return list_of(is_number, 2)(value) and 0 < value[0] <= value[1] <= 1


def _is_share_like(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1e6


def _is_soft_labels(value: Any) -> bool:
    return is_mapping(value) and (value.get("teacher") is None or is_safe_path(value["teacher"]))


def _is_file_entry(value: Any) -> bool:
    return (
        is_mapping(value)
        and is_safe_path(value.get("file"))
        and is_count(value.get("bytes"))
        and is_text(value.get("sha256"))
    )


def _makes(make: Callable[[Any], Any], value: Any) -> bool:
    try:
        make(value)
    except (TypeError, ValueError, KeyError, AttributeError):
        return False
    return True


OPTIONAL: tuple[tuple[str, Check, str], ...] = (
    ("formation", is_formation, f"a mapping with factor (1 to {_LARGEST_FACTOR}), kind and cap"),
    ("stages", list_of(is_count), "the stage of each image, from 0"),
    ("stage_lrs", list_of(or_null(is_rate)), "a list of positive rates"),
    ("stage_momentum", is_text, "text"),
    ("stage_pictures", list_of(or_null(is_count)), "a list of numbers of pictures"),
    ("distribution", is_mapping, "a mapping with storage and blocks"),
    ("recipe", is_recipe, "a mapping with protocol, dsa, augment, lr, weight_decay, cutmix, flip, shift and scale"),
    ("soft_labels", _is_soft_labels, "a mapping; teacher, where it has one, names a file in the folder"),
    ("space", is_text, "text"),
    ("whitening", _is_file_entry, "a mapping with file (in the folder), bytes and sha256"),
    ("exported", is_mapping, "a mapping with to and left_out"),
    ("lr", is_rate, "a positive rate"),
)
