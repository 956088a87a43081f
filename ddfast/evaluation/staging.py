"""Sets with stages (PDD): how their students are trained, and those of their controls in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ddfast.evaluation.protocols import EvaluationConfig
from ddfast.evaluation.recipes import recipe_name
from ddfast.store import DistilledSet
from ddfast.train import Lesson, StudentConfig, stage_parts

if TYPE_CHECKING:
    from ddfast.evaluation.plan import Plan, Spec, Subject

UNION = "union"
_HALVED = 5  # stages that IDC's students train through at the full rate in PDD's program


@dataclass(frozen=True)
class Staging:
    """``mode``: progressive or sequential; ``stages`` of each stored image; ``lrs``, the rates the stages learned or
    were given; ``carried``, whether momentum goes on from stage to stage."""

    mode: str
    stages: tuple[int, ...]
    lrs: tuple[float, ...]
    carried: bool

    def as_json(self) -> dict[str, Any]:
        """What decides results beside the images."""
        return {"mode": self.mode, "of": list(self.stages), "lrs": list(self.lrs), "carried": self.carried}


def staging_of(distilled: DistilledSet, mode: str | None) -> Staging | None:
    """How students go through a set's stages; None where they do not.

    Args:
        distilled: the set.
        mode: as `EvaluationConfig.staged`.

    Raises:
        ValueError: the manifest's entries do not fit together.
    """
    stages = None if mode == UNION else distilled.stages
    if stages is None or int(stages.max()) == 0:
        return None
    count = int(stages.max()) + 1
    lrs = distilled.manifest.get("stage_lrs") or []
    if lrs and (len(lrs) != count or not all(isinstance(lr, (int, float)) and lr > 0 for lr in lrs)):
        raise ValueError(f"manifest: stage_lrs: got {lrs!r}, expected {count} positive rates, one a stage")
    carried = distilled.manifest.get("stage_momentum", "carried") == "carried"
    return Staging(mode or "progressive", tuple(stages.tolist()), tuple(map(float, lrs)), carried)


def stage_sizes(distilled: DistilledSet, mode: str) -> list[int]:
    """Images that students train on in each stage of a set with stages."""
    return [len(rows) for rows in stage_parts(_decoded(distilled)[0], mode)]


def _decoded(distilled: DistilledSet) -> tuple[Tensor, Tensor]:
    """Stages and labels of the images that students train on."""
    made = distilled.decoded()
    if made.stages is None:
        raise ValueError("distilled: got a set without stages")
    return made.stages, made.labels


def stages_alike(stages: Tensor, labels: Tensor, others: Tensor) -> Tensor:
    """Stages of a control's pictures: of each class the same share in each stage as of the set's images.

    Args:
        stages, labels: int64 [N] of the set's images.
        others: int64 [M], labels of the pictures.

    Returns:
        int64 [M]; with as many pictures of a class as images, as many of them in each stage.
    """
    found = torch.zeros_like(others)
    for label in others.unique():
        own = stages[labels == label].sort().values
        places = torch.nonzero(others == label)[:, 0]
        found[places] = own[torch.arange(len(places)) * len(own) // len(places)]
    return found


def lessons_of(plan: Plan, spec: Spec, subject: Subject, labels: Tensor) -> list[Lesson] | None:
    """The lessons of a task's student on pictures with these labels; None where there is one for all of them."""
    staging = plan.staging(spec)
    if staging is None:
        return None
    stages, own = _decoded(subject.distilled)
    count = int(stages.max()) + 1
    if spec.images != "distilled":
        stages = stages_alike(stages, own, labels)
    parts = stage_parts(stages, staging.mode, count)
    base = plan.recipe(spec)
    own_lrs = own_rates(plan.config, base, count, subject.distilled.manifest)
    rates = staging.lrs if plan.learned(spec) and staging.lrs else own_lrs
    return [
        Lesson(rows, replace(base, lr=lr, batch_size=min(base.batch_size, len(rows))))
        for rows, lr in zip(parts, rates, strict=True)
    ]


def own_rates(
    config: EvaluationConfig, recipe: StudentConfig, count: int, manifest: Mapping[str, Any] | None = None
) -> list[float]:
    """The recipe's rate in each stage; ``manifest``: the set's, which may name the recipe."""
    if recipe_name(config.preset, manifest or {}) == "idc" and config.lr is None:
        return [recipe.lr if stage < _HALVED else recipe.lr / 2 for stage in range(count)]
    return [recipe.lr] * count


def lesson_epochs(lessons: Sequence[Lesson]) -> list[int]:
    """Epochs done after each lesson, in all."""
    return torch.tensor([lesson.config.epochs for lesson in lessons]).cumsum(0).tolist()


def views(lessons: Sequence[Lesson]) -> int:
    """Pictures seen in all."""
    return sum(lesson.config.epochs * len(lesson.rows) for lesson in lessons)
