"""The part of a configuration that decides a run's results: its fingerprint and its differences."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_MISSING = "(not set)"


def canonical(config: Mapping[str, Any]) -> dict[str, Any]:
    """``config`` as it comes back from JSON: tuples are lists, keys are text.

    Raises:
        TypeError: a value is not JSON (number, text, bool, None, list, mapping); the message names its key.
        ValueError: a number is NaN or infinite.
    """
    result: dict[str, Any] = {}
    for key, value in flatten(config).items():
        try:
            json.dumps(value, allow_nan=False)
        except TypeError:
            raise TypeError(f"config: {key} is a {type(value).__name__}, expected what JSON can hold") from None
        except ValueError:
            raise ValueError(f"config: {key} is {value!r}, expected a finite number") from None
    result.update(json.loads(json.dumps(dict(config), sort_keys=True)))
    return result


def fingerprint(config: Mapping[str, Any]) -> str:
    """SHA-256, as hexadecimal text, of the canonical JSON of ``config`` (sorted keys, no spaces)."""
    text = json.dumps(canonical(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """One line per key whose value differs: ``"seed: the run has 1, you ask for 2"``, sorted by key."""
    old, new = flatten(canonical(there)), flatten(canonical(here))
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key, _MISSING), new.get(key, _MISSING)
        if before != after or type(before) is not type(after):
            lines.append(f"{key}: the run has {_shown(before)}, you ask for {_shown(after)}")
    return lines


def _shown(value: object) -> str:
    return value if value is _MISSING else json.dumps(value)  # type: ignore[return-value]
