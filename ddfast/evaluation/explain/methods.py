"""A set's method in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ddfast.store.about import ABOUT

__all__ = ["ABOUT", "method_words"]

_SELECTIONS = {
    "random": "They were drawn at random.",
    "herding": "They were taken so that their mean feature stays near that of their class (herding).",
    "k-center": "They were taken to cover their class in the observer's features (k-center).",
    "forgetting": "They are those that networks forgot most often while they were trained.",
}


def method_words(manifest: Mapping[str, Any]) -> list[str]:
    """Sentences on a set's method, with what its settings change."""
    name = str(manifest.get("method") or "")
    config: Mapping[str, Any] = manifest.get("config") or {}
    about = ABOUT.get(name)
    found = [about.sentence] if about else [f"It was made by the method {name!r}."] if name else []
    if name == "coreset":
        found.append(_SELECTIONS.get(str(config.get("selection")), ""))
    if name == "pdd" and config.get("base"):
        base = ABOUT.get(str(config["base"]))
        found.append(
            f"Within a stage ({config['base']}): {base.sentence[0].lower()}{base.sentence[1:]}" if base else ""
        )
    if name == "rded" and config.get("factor") and config.get("mipc"):
        side = config["factor"]
        found.append(
            f"A mosaic has {side} x {side} patches, chosen from {config.get('num_crop')} crops of each of up to "
            f"{config.get('mipc')} pictures per class."
        )  # fmt: skip
    return [*found, f"Paper: {about.paper}." if about and about.paper else ""]
