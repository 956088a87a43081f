"""MTT: images whose short trainings end where long trainings on real pictures do (Cazenavette et al., CVPR 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.mtt.config import PRESETS, MTTConfig

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions
    from ddfast.train.matching import Matcher

__all__ = ["PRESETS", "MTTConfig"]


def _make_matcher(*given: Any) -> Matcher:
    from ddfast.methods.mtt.pipeline import make_matcher

    return make_matcher(*given)


def _share(*given: Any) -> None:
    from ddfast.methods.mtt.pipeline import share

    share(*given)


@register_method("mtt", config_class=MTTConfig, presets=PRESETS, make_matcher=_make_matcher, share=_share)
def _run(source: Source, out: Path, config: MTTConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.mtt.pipeline import run

    run(source, out, config, options, observer)
