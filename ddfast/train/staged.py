"""Students that train on a set in stages, as PDD's do (Chen et al., ICLR 2024, arXiv 2310.06982): on the first set, on
the first two, and so on, the schedule beginning anew each time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.runs.seeds import stream_key
from ddfast.train.config import OnProgress, Tested, TrainProgress, TrainReport
from ddfast.train.loop import LoopOptions
from ddfast.train.optimizers import Gathered
from ddfast.train.student import StudentConfig, train_student

MODES = ("progressive", "union", "sequential")


@dataclass(frozen=True)
class Lesson:
    """One stage of a training: which images (``rows`` int64 [n]), and how."""

    rows: Tensor
    config: StudentConfig


def stage_parts(stages: Tensor, mode: str, count: int | None = None) -> list[Tensor]:
    """Images of each stage's training, int64, none of them empty.

    Args:
        stages: int64 [N] from 0, of each image.
        mode: "progressive": the images of this stage and all before; "sequential": of this stage alone, or where it has
            none those of the stage before; "union": all images at once.
        count: of stages; None for as many as there are.

    Raises:
        ValueError: another mode, or no image in the first stage.
    """
    if mode not in MODES:
        raise ValueError(f"staged: got {mode!r}, expected one of {', '.join(MODES)}")
    if mode == "union":
        return [torch.arange(len(stages))]
    if not bool((stages == 0).any()):
        raise ValueError("stages: got none of stage 0, expected images in the first stage")
    parts: list[Tensor] = []
    for stage in range(int(stages.max()) + 1 if count is None else count):
        rows = torch.nonzero(stages <= stage if mode == "progressive" else stages == stage)[:, 0]
        parts.append(rows if len(rows) else parts[-1])
    return parts


def stage_seed(seed: int, stage: int) -> int:
    """Seed of a stage's order and augmentations (from 0): the training's own, then others."""
    return seed if stage == 0 else stream_key(seed, f"train/stage {stage}")[0]


def stage_checkpoint(checkpoint: Path, stage: int) -> Path:
    """File of a stage, beside the one that a training in one go would write."""
    return checkpoint.with_name(f"{checkpoint.stem}.stage{stage}{checkpoint.suffix}")


def train_in_stages(
    images: Tensor,
    labels: Tensor,
    student: nn.Module,
    teacher: Callable[[Tensor], Tensor] | None,
    lessons: Sequence[Lesson],
    *,
    carried: bool = True,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
    **named: Any,
) -> TrainReport:
    """Train ``student`` in place, lesson after lesson.

    Every lesson is a training of its own on ``images[rows]`` with its own schedule from the start; its config's seed
    is used for the first, and for each other one a seed that follows from it (`stage_seed`). Stopped anywhere and
    called again with a new student and the same checkpoint, it ends in the same weights.

    Args:
        images, labels, student, teacher: as in ``train_student``.
        lessons: one or more.
        carried: the optimiser's momentum goes on from lesson to lesson; else it begins anew.
        on_progress: epochs are those of all lessons.
        options: of the whole; ``test_epochs`` count through all lessons (None for the last epoch alone), each lesson
            has a checkpoint of its own (`stage_checkpoint`), which the caller removes at the end.
        **named: further arguments of ``train_student``.

    Returns:
        Of the whole: losses and tests of all epochs, counted through.

    Raises:
        ValueError: no lessons.
        NonFiniteLossError, TrainMemoryError, RunError: as in ``train_student``.
    """
    if not lessons:
        raise ValueError("lessons: got none, expected one or more")
    options = options or LoopOptions()
    total = sum(lesson.config.epochs for lesson in lessons)
    tested = {total} if options.test_epochs is None else set(options.test_epochs)
    gathered = Gathered() if carried else None
    views = [len(lesson.rows) * lesson.config.epochs for lesson in lessons]
    whole, begun = TrainReport(), 0
    for stage, lesson in enumerate(lessons):
        path = None if options.checkpoint is None else stage_checkpoint(Path(options.checkpoint), stage)
        last = begun + lesson.config.epochs
        part = train_student(
            images[lesson.rows], labels[lesson.rows], student, teacher,
            replace(lesson.config, seed=stage_seed(lesson.config.seed, stage)),
            on_progress=_through(on_progress, begun, total, sum(views[stage + 1 :])), gathered=gathered,
            options=replace(
                options, checkpoint=path, identity={**options.identity, "stage": stage, "carried": carried},
                test_epochs={epoch - begun for epoch in tested if begun < epoch <= last},
            ),
            **named,
        )  # fmt: skip
        whole = _joined(whole, part, begun)
        begun = last
    return replace(whole, images_per_second=sum(views) / max(whole.seconds, 1e-9))


def _through(watch: OnProgress | None, begun: int, total: int, later: int) -> OnProgress | None:
    """Progress of a lesson as that of the whole; the ``later`` views of further lessons take as long as this one's."""
    if watch is None:
        return None

    def show(state: TrainProgress) -> None:
        after = later / state.images_per_second if later and state.images_per_second > 0 else 0.0
        watch(replace(state, epoch=begun + state.epoch, epochs=total, eta_seconds=state.eta_seconds + after))

    return show


def _joined(whole: TrainReport, part: TrainReport, begun: int) -> TrainReport:
    tested = [Tested(begun + test.epoch, test.top1) for test in part.tested]
    return TrainReport(
        whole.losses + part.losses, whole.steps + part.steps, whole.seconds + part.seconds, 0.0, whole.tested + tested
    )
