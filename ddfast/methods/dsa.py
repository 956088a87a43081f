"""DSA: DC with one augmentation of a class's real and synthetic pictures (Zhao and Bilen, ICML 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._gradient import GradientConfig, matcher_maker, presets
from ddfast.methods._options import option
from ddfast.methods._registry import register_method
from ddfast.train.dsa import DIGITS

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "DSAConfig"]


@dataclass(frozen=True)
class DSAConfig(GradientConfig):
    """With augmentation, from real pictures."""

    eval_every: int = option(500, "iterations between two tests")


PRESETS = presets(
    {"dsa": DIGITS},
    {
        "ipc": 1, "iterations": 60, "lr_img": 0.2, "batch_real": 32, "width": 32, "outer": 2, "inner": 4,
        "lr_net": 0.02, "eval_every": 30, "eval_students": 1, "eval_epochs": 50, "dsa": DIGITS,
    },
)  # fmt: skip


@register_method("dsa", config_class=DSAConfig, presets=PRESETS, make_matcher=matcher_maker("dsa"))
def _run(source: Source, out: Path, config: DSAConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods._driver import run_matching

    run_matching("dsa", source, out, config, options, matcher_maker("dsa"), observer)
