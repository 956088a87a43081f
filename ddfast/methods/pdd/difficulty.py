"""Stages of rising difficulty: each sees the real pictures that networks forget about as often as its number says."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ddfast.methods._driver import EXPERTS
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.pdd.config import COUNT, PDDConfig
from ddfast.runs.sharing import unless
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.forgetting import FORGETTING_FILE, ForgettingScores
from ddfast.train.trajectories import EXPERTS_FILE

FOLDER = "forgetting"  # among the stages' folders
_NETWORKS, _EPOCHS = 10, 50  # that count, where the base has no experts


@runtime_checkable
class TrainsExperts(Protocol):
    """Settings of a base method with experts, trained unless there are ``buffers``."""

    @property
    def buffers(self) -> str | None:
        """Folder of experts."""

    def expert_config(self) -> ExpertConfig:
        """How they are trained."""

    def expert_info(self) -> dict[str, str]:
        """What their store says about the pictures."""


@dataclass(frozen=True)
class Difficulty:
    """``chosen`` bool [N] for each stage: which of the problem's pictures are its own; ``everywhere`` says whether it
    sees no others at all, or only begins its images from these."""

    chosen: tuple[Tensor, ...]
    everywhere: bool

    @classmethod
    def of(cls, problem: Problem, config: PDDConfig, options: RunOptions, stages: Path) -> Difficulty:
        """By the scores that ``config.forgetting`` names, or counted now.

        Args:
            problem: all real pictures of the run.
            config: interval, stages and scope.
            options: of the run.
            stages: the folder of the stages.

        Raises:
            FileNotFoundError: no scores there.
            ddfast.runs.RunError: they are of other pictures, or damaged.
            ValueError: a class has too few pictures left in a stage; names class and interval.
        """
        with problem.timings.part("forgetting"):
            scores = _scores(problem, config, options, stages)
        chosen = tuple(
            scores.stage(k, config.difficulty_interval, config.stages, problem.labels, problem.class_names)
            for k in range(1, config.stages + 1)
        )
        for k, each in enumerate(chosen, start=1):
            left = torch.bincount(problem.labels[each], minlength=len(problem.class_names))
            if int(left.min()) < config.ipc_per_stage:
                name = problem.class_names[int(left.argmin())]
                raise ValueError(
                    f"difficulty_interval: class {name} has {int(left.min())} pictures in stage {k} of {config.stages} "
                    f"with difficulty_interval={config.difficulty_interval:g}, but ipc_per_stage is "
                    f"{config.ipc_per_stage}; change the interval, or take fewer stages"
                )
        return cls(chosen, config.difficulty_scope == "all")

    def problem(self, problem: Problem, stage: int) -> Problem:
        """As a stage (from 0) sees it."""
        return problem.among(self.chosen[stage], everywhere=self.everywhere)

    @property
    def counts(self) -> list[int]:
        """Pictures of each stage."""
        return [int(each.sum()) for each in self.chosen]


def scores_digest(config: PDDConfig) -> str | None:
    """SHA-256 of the scores that a run is given; None where it counts them itself, or has none.

    Raises:
        FileNotFoundError: there are none.
    """
    if config.forgetting in (None, COUNT):
        return None
    path = Path(str(config.forgetting))
    path = path / FORGETTING_FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"forgetting: {path} is not there; give a folder of experts with scores, or train")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _scores(problem: Problem, config: PDDConfig, options: RunOptions, stages: Path) -> ForgettingScores:
    if config.forgetting != COUNT:
        return ForgettingScores.load(str(config.forgetting), problem.fingerprint)
    recipe, own = counting(config)
    folder = stages / "0" / EXPERTS if own else stages / FOLDER
    if not (folder / FORGETTING_FILE).exists():
        base = config.base_config
        info = base.expert_info() if isinstance(base, TrainsExperts) else {}
        folder.mkdir(parents=True, exist_ok=True)
        # by several workers; the first to be done may remove the experts before others see that they are trained
        with unless((folder / FORGETTING_FILE).exists):
            train_experts(
                problem.net, *problem.resident(), recipe, folder, pictures=problem.fingerprint, info=info,
                device=problem.device, forgetting=True, quiet=options.quiet, worker=options.worker(),
                wanted=lambda: not (folder / FORGETTING_FILE).exists(),
            )  # fmt: skip
    if not own:
        (folder / EXPERTS_FILE).unlink(missing_ok=True)  # gigabytes that nothing reads again
    return ForgettingScores.load(folder, problem.fingerprint)


def counting(config: PDDConfig) -> tuple[ExpertConfig, bool]:
    """How the networks are trained that count, and whether they are the first stage's own experts."""
    base = config.base_config
    if isinstance(base, TrainsExperts):
        recipe = base.expert_config()
    else:
        recipe = ExpertConfig(_NETWORKS, _EPOCHS, dsa=base.dsa, precision=base.precision, seed=base.seed)
    changed = dataclasses.replace(
        recipe,
        experts=config.forgetting_networks or recipe.experts,
        epochs=config.forgetting_epochs or recipe.epochs,
    )
    same = isinstance(base, TrainsExperts) and base.buffers is None and changed == recipe
    return changed, same and config.difficulty_scope == "pool"
