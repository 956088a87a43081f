"""RDED: crop real pictures, score the crops by an observer, stitch the best into mosaics (Sun et al., CVPR 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.rded.config import PRESETS, RDEDConfig

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "RDEDConfig"]


@register_method("rded", config_class=RDEDConfig, presets=PRESETS)
def _run(source: Source, out: Path, config: RDEDConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.rded.pipeline import run

    run(source, out, config, options, observer)
