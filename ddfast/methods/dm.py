"""DM: images whose mean features under random networks are those of real pictures (Zhao and Bilen, WACV 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option
from ddfast.methods._registry import register_method
from ddfast.train.dsa import DIGITS

if TYPE_CHECKING:
    from ddfast.data import Source
    from ddfast.methods._options import RunOptions
    from ddfast.methods._problem import Problem
    from ddfast.train.matching import MatchingData
    from ddfast.train.matching.distribution import DistributionMatcher

__all__ = ["PRESETS", "DMConfig"]


@dataclass(frozen=True)
class DMConfig(MatchingConfig):
    """Settings that decide what is distilled (DM: Zhao and Bilen, WACV 2023, arXiv 2110.04181).

    Each iteration takes a new random network and moves the images against the gradient of
    ``sum over classes of |mean f(real) - mean f(synthetic)|^2``, f being the network's features before its linear
    layer, and ``dsa`` one augmentation of both.
    """

    iterations: int = option(20_000, "outer iterations")
    batch_real: int = option(256, "real pictures of a class in a step")
    eval_every: int = option(2000, "iterations between two tests")

    counts: ClassVar[tuple[str, ...]] = (*MatchingConfig.counts, "batch_real")
    fewest_classes: ClassVar[int] = 1  # features are matched, not gradients


# The authors' rate of the images is 1, and 10 from 100 images per class on.
PRESETS: dict[str, dict[str, Any]] = {
    **{f"{name}-ipc{ipc}": {"ipc": ipc} for name in ("cifar10", "cifar100", "fashionmnist") for ipc in (1, 10, 50)},
    **{f"mnist-ipc{ipc}": {"ipc": ipc, "dsa": DIGITS} for ipc in (1, 10, 50)},
    **{f"tinyimagenet-ipc{ipc}": {"ipc": ipc, "size": 64, "depth": 4} for ipc in (1, 10, 50)},
    "cifar10-ipc100": {"ipc": 100, "lr_img": 10.0},
    "smoke": {
        "ipc": 1, "iterations": 160, "batch_real": 32, "width": 32, "dsa": DIGITS,
        "eval_every": 80, "eval_students": 1, "eval_epochs": 50,
    },
}  # fmt: skip


def _make_matcher(
    problem: Problem, config: DMConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
) -> DistributionMatcher:
    from ddfast.train.matching.distribution import DistributionMatcher
    from ddfast.train.matching.images import ImageSettings

    settings = ImageSettings(
        f"dm/stage {stage}" if stage else "dm", config.iterations, config.lr_img, config.momentum, config.batch_real,
        config.dsa, config.precision, config.seed,
    )  # fmt: skip
    return DistributionMatcher(data, *problem.initial(data.images, stage), settings)


@register_method("dm", config_class=DMConfig, presets=PRESETS, make_matcher=_make_matcher)
def _run(source: Source, out: Path, config: DMConfig, options: RunOptions, observer: Any = None) -> None:
    from ddfast.methods._driver import run_matching

    run_matching("dm", source, out, config, options, _make_matcher, observer)
