"""IDC: images that are decoded into several each, made by matching gradients (Kim et al., ICML 2022)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._registry import register_method
from ddfast.methods.idc.config import IDCConfig
from ddfast.methods.idc.presets import PRESETS

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions
    from ddfast.train.matching import Matcher

__all__ = ["PRESETS", "IDCConfig"]


def _make_matcher(*given: Any) -> Matcher:
    from ddfast.methods.idc.pipeline import make_matcher

    return make_matcher(*given)


@register_method("idc", config_class=IDCConfig, presets=PRESETS, make_matcher=_make_matcher)
def _run(source: Source, out: Path, config: IDCConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods.idc.pipeline import run

    run(source, out, config, options, observer)
