"""DC: images on which networks have the gradients that they have on real pictures (Zhao et al., ICLR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.methods._gradient import GradientConfig, matcher_maker, presets
from ddfast.methods._options import option
from ddfast.methods._registry import register_method

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions

__all__ = ["PRESETS", "DCConfig"]


@dataclass(frozen=True)
class DCConfig(GradientConfig):
    """Without augmentation, from noise."""

    dsa: str = option("", "augmentations, one drawn a batch (method dsa has them); empty for none")
    init: str = option("noise", "the images at the start: real or noise")
    eval_every: int = option(500, "iterations between two tests")
    eval_epochs: int = option(300, "epochs of each")


PRESETS = presets(
    {},
    {
        "ipc": 1, "iterations": 60, "lr_img": 0.2, "batch_real": 32, "width": 32, "outer": 2, "inner": 4,
        "lr_net": 0.02, "eval_every": 30, "eval_students": 1, "eval_epochs": 50,
    },
)  # fmt: skip


@register_method("dc", config_class=DCConfig, presets=PRESETS, make_matcher=matcher_maker("dc"))
def _run(source: Source, out: Path, config: DCConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods._driver import run_matching

    run_matching("dc", source, out, config, options, matcher_maker("dc"), observer)
