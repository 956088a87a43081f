"""What DC and DSA share: settings, presets and the matcher."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option

if TYPE_CHECKING:
    from ddfast.methods._options import RunOptions
    from ddfast.methods._problem import Problem
    from ddfast.train.matching import MatchingData
    from ddfast.train.matching.gradient import GradientMatcher


@dataclass(frozen=True)
class GradientConfig(MatchingConfig):
    """Settings that decide what is distilled (DC: Zhao et al., ICLR 2021, arXiv 2006.05929; DSA: Zhao and Bilen, ICML
    2021, arXiv 2102.08259).

    Each iteration takes a new network and does ``outer`` times: the images move so that the gradients of each class's
    loss on them and on real pictures point the same way, then the network is trained on the images for ``inner``
    epochs. ``dsa`` augments a class's real and synthetic pictures alike in matching, and the trainings.
    """

    lr_img: float = option(0.1, "learning rate of the images")
    batch_real: int = option(256, "real pictures of a class in a step")
    outer: int | None = option(None, "steps with a network (default: ipc, at most 50)")
    inner: int | None = option(
        None, "epochs between two (default: 1, 50, 25, 20, 15, 10 for ipc 1, 10, 20, 30, 40, 50; between them linear)"
    )
    lr_net: float = option(0.01, "learning rate of the networks")
    batch_train: int = option(256, "images a step of their training")
    batched: bool = option(True, "all classes in one batch; else class by class through torch's graph, slower")

    counts: ClassVar[tuple[str, ...]] = (*MatchingConfig.counts, "batch_real", "batch_train")
    rates: ClassVar[tuple[str, ...]] = (*MatchingConfig.rates, "lr_net")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("outer", "inner"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")


def matcher_maker(method: str) -> Callable[..., GradientMatcher]:
    """A `ddfast.methods._driver.MakeMatcher`, whose random streams begin with the method's name."""

    def make_matcher(
        problem: Problem, config: GradientConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
    ) -> GradientMatcher:
        from ddfast.train.matching.gradient import GradientMatcher, GradientSettings, loops

        outer, inner = loops(config.ipc)
        settings = GradientSettings(
            f"{method}/stage {stage}" if stage else method, config.iterations, config.lr_img, config.momentum,
            config.batch_real, config.dsa, config.precision, config.seed, config.outer or outer,
            config.inner or inner, config.lr_net, config.batch_train, config.batched,
        )  # fmt: skip
        return GradientMatcher(data, *problem.initial(data.images, stage), settings)

    return make_matcher


def presets(digits: dict[str, Any], smoke: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The papers' sets at 1, 10 and 50 images per class, with ``digits`` for MNIST; and ``smoke``."""
    found: dict[str, dict[str, Any]] = {
        f"{name}-ipc{ipc}": {"ipc": ipc, **more}
        for name, more in (("cifar10", {}), ("cifar100", {}), ("mnist", digits), ("fashionmnist", {}))
        for ipc in (1, 10, 50)
    }
    return {**found, "smoke": smoke}
