"""D3: a few Gaussians per class and a decoder instead of images (Qin et al., 2024, arXiv 2403.00999)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.d3.config import D3Config
from ddfast.methods.d3.presets import PRESETS

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "D3Config"]


@register_method("d3", config_class=D3Config, presets=PRESETS)
def _run(source: Source, out: Path, config: D3Config, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.d3.pipeline import run

    run(source, out, config, options, observer)
