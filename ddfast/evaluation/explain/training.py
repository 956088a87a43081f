"""How to train on a set: its recipe in words, and the command that judges it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from ddfast.evaluation.inputs import BUILT_IN
from ddfast.evaluation.protocols import PROTOCOLS
from ddfast.evaluation.recipes import named_recipe, own_recipe


def recipe_words(manifest: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The recipe that the set is for, and sentences on it."""
    name = named_recipe([manifest])
    made: Mapping[str, Any] = manifest.get("recipe") or {}
    about = f"Students are trained by the recipe {name}: {PROTOCOLS[name].about}."
    if manifest.get("preset") == "smoke":
        about += " The recipe smoke is a shorter one, for tries."
    if own_recipe(manifest) is None:
        return name, [about, "The set names no recipe of its own; this is the default."]
    kept = [key for key in ("lr", "momentum", "weight_decay", "cutmix") if made.get(key) is not None]
    values = [f"{key} {made[key]:.4g}" if isinstance(made[key], float) else f"{key} {made[key]}" for key in kept]
    augment = made.get("dsa") or made.get("augment")
    values += [f"augmentation {augment}"] if augment else []
    return name, [about, f"Its own values: {', '.join(values)}." if values else ""]


def command(folder: Path, manifest: Mapping[str, Any], train: str = "REAL_PICTURES") -> str:
    """The command line that trains students on the set by the recipe of its method, and tests them.

    Args:
        folder: of the set.
        manifest: of the set.
        train: what it was distilled from.
    """
    recipe = "smoke" if manifest.get("preset") == "smoke" else own_recipe(manifest)  # smoke shortens the set's own
    preset = f" --preset {recipe}" if recipe else ""
    known = (manifest.get("source") or {}).get("name") in BUILT_IN
    data = "" if known else f" --data TEST_PICTURES --train {quote(train)}"
    return f"ddfast evaluate {quote(str(folder))}{preset}{data}"
