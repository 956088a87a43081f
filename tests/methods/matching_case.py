"""A tiny matching problem, and a base method so simple that what the driver and PDD do around it can be told apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ddfast.data.arrays import ArraySource
from ddfast.methods import _registry
from ddfast.methods._driver import run_matching
from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.train.matching import MatchingData

SETTINGS: dict[str, Any] = {
    "size": 8, "depth": 2, "width": 16, "iterations": 6, "eval_every": 2, "eval_students": 1, "eval_epochs": 3,
}  # fmt: skip


def source(each: int = 12, seed: int = 0) -> ArraySource:
    """Three classes of 8 x 8 pictures, each with a colour of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(3 * each) % 3
    images = rng.normal(110, 40, (3 * each, 8, 8, 3))
    images[np.arange(3 * each), :, :, labels] += 60
    return ArraySource(images.clip(0, 255).astype(np.uint8), labels, ("red", "green", "blue"), name="colours")


@dataclass(frozen=True)
class DriftConfig(MatchingConfig):
    """``keep`` says whether the best images are kept."""

    keep: bool = False
    grow: float = 1.0

    @property
    def keeps_best(self) -> bool:
        return self.keep and self.test != "none"


class DriftMatcher:
    """Images drift away from the mean of the frozen ones and towards the sum of the iteration's start network.

    It works in place and in two halves, so that one that is stopped in between is not whole.
    """

    made: ClassVar[list[DriftMatcher]] = []

    def __init__(self, problem: Problem, config: DriftConfig, data: MatchingData, stage: int) -> None:
        self.images, self.labels = problem.initial(data.images, stage)
        self.config, self.data, self.stage = config, data, stage
        self.iteration, self.iterations = 0, config.iterations
        DriftMatcher.made.append(self)

    def advance(self) -> float:
        starts, frozen = self.data.starts, self.data.frozen
        self.images.mul_(0.9 * self.config.grow)
        if len(frozen):
            self.images.sub_(0.1 * frozen.mean(0))
        if starts is not None:
            self.images.add_(1e-3 * float(starts[self.iteration % len(starts)].double().sum()))
        self.halfway()
        self.images.add_(0.01 * self.iteration)
        self.iteration += 1
        return float(self.images.square().mean())

    def halfway(self) -> None:
        """For tests to stop at."""

    def state_dict(self) -> dict[str, Any]:
        return {"images": self.images, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self.iteration = state["images"].clone(), state["iteration"]

    def stored(self) -> tuple[Tensor, Tensor]:
        return self.images, self.labels

    def student_set(self) -> tuple[Tensor, Tensor]:
        return torch.cat([self.data.frozen, self.images]), torch.cat([self.data.frozen_labels, self.labels])

    def learned_lr(self) -> float | None:
        return None


def make_drift(
    problem: Problem, config: DriftConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
) -> DriftMatcher:
    return DriftMatcher(problem, config, data, stage)


@contextmanager
def drift_method(presets: Mapping[str, Mapping[str, Any]] | None = None) -> Iterator[None]:
    """Registers it as method "drift" for a while."""

    def run(source: Any, out: Path, config: DriftConfig, options: RunOptions, observer: Any = None) -> None:
        run_matching("drift", source, out, config, options, make_drift, observer)

    decorate = _registry.register_method(
        "drift", config_class=DriftConfig, presets=presets or {}, make_matcher=make_drift
    )
    decorate(run)
    DriftMatcher.made.clear()
    try:
        yield
    finally:
        del _registry._METHODS["drift"]
