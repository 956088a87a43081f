"""PDD: distilled sets in stages, each made on top of those before it (Chen et al., ICLR 2024), over any base method."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.pdd.config import PDDConfig
from ddfast.methods.pdd.presets import PRESETS

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "PDDConfig"]


@register_method("pdd", config_class=PDDConfig, presets=PRESETS)
def _run(source: Source, out: Path, config: PDDConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.pdd.pipeline import run

    run(source, out, config, options, observer)
