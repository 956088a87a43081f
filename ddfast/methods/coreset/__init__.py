"""Coresets: real pictures chosen at random, by herding, by k-center or by forgetting; the baselines of the field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.coreset.config import PRESETS, CoresetConfig

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "CoresetConfig"]


@register_method("coreset", config_class=CoresetConfig, presets=PRESETS)
def _run(source: Source, out: Path, config: CoresetConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.coreset.pipeline import run

    run(source, out, config, options, observer)
