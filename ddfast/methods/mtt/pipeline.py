"""MTT on the driver of the matching methods: experts, and images at the start."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.data import Source
from ddfast.methods._driver import CHECKPOINT, EXPERTS, OUTPUTS, run_matching
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.mtt.config import MTTConfig
from ddfast.methods.mtt.experts import find_experts
from ddfast.train.matching import MatchingData
from ddfast.train.matching.trajectory import TrajectoryMatcher, TrajectorySettings
from ddfast.train.trajectories import TrajectoryStore

__all__ = ["CHECKPOINT", "EXPERTS", "OUTPUTS", "make_matcher", "run"]

_EXPERTS_FOR_LABELS = 10


def run(source: Source, out: Path, config: MTTConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: settings, source and experts do not fit together.
        NonFiniteLossError: an expert or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    run_matching("mtt", source, out, config, options, make_matcher, observer, share)


def share(
    problem: Problem, config: MTTConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
) -> None:
    """Finds or trains the experts in ``folder``, beside other workers that do so.

    Raises:
        ValueError, FileNotFoundError, ddfast.runs.RunError: as `find_experts`.
        NonFiniteLossError: an expert diverged.
    """
    _experts(problem, config, data, folder, options)


def make_matcher(
    problem: Problem, config: MTTConfig, data: MatchingData, stage: int, folder: Path, options: RunOptions
) -> TrajectoryMatcher:
    """Finds or trains the experts in ``folder``, and begins from the problem's initial images.

    Raises:
        ValueError, FileNotFoundError, ddfast.runs.RunError: the experts do not fit.
        NonFiniteLossError: an expert diverged.
    """
    store, seen = _experts(problem, config, data, folder, options)
    images, labels = problem.initial(data.images, stage)
    names = {f.name for f in fields(TrajectorySettings)}
    chosen = {f.name: getattr(config, f.name) for f in fields(config) if f.name in names}
    settings = TrajectorySettings(**chosen, stream=f"mtt/stage {stage}" if stage else "mtt")
    return TrajectoryMatcher(
        data.net, store, settings, images, labels, frozen=data.frozen, frozen_labels=data.frozen_labels,
        logits=_logits(data, store, images) if config.soft_labels else None, notes={"experts_trained_on": seen},
    )  # fmt: skip


def _experts(
    problem: Problem, config: MTTConfig, data: MatchingData, folder: Path, options: RunOptions
) -> tuple[TrajectoryStore, str]:
    timings = problem.timings
    with timings.part("experts"):
        return find_experts(
            data, problem.fingerprint, config, options, folder / EXPERTS, on_expert=lambda number: timings.keep(),
            wanted=problem.wanted,
        )  # fmt: skip


def _logits(data: MatchingData, store: TrajectoryStore, images: Tensor) -> Tensor:
    """Mean of the experts' at their end."""
    chosen = range(min(len(store), _EXPERTS_FOR_LABELS))
    thetas = [store.snapshot(expert, store.epochs).to(images.device) for expert in chosen]
    with torch.no_grad():
        return torch.stack([data.net.logits(theta, images) for theta in thetas]).mean(0)
