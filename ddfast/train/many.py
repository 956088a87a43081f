"""Several students of one architecture trained side by side: other seeds, or other learning rates.

On a GPU a step of a small network is bound by launches, and five of them at once cost little more than one. On a CPU
there is nothing to gain, so that they take turns there unless an engine is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ddfast._types import IMAGENET, Normalization
from ddfast.store import set_fingerprint
from ddfast.train import loop
from ddfast.train.loop import Batch, LoopOptions, Objective, OnProgress, TrainReport
from ddfast.train.stacked import ENGINES, Stacked
from ddfast.train.student import StudentConfig, StudentLoss, batch_norm_twice, student_loss, train_student
from ddfast.train.supervised import check_set, to_best_format
from ddfast.train.views import epoch_order

_FREE: dict[str, Any] = {"seed": 0, "lr": 1.0}  # what may differ between students


def train_many(
    images: Tensor,
    labels: Tensor,
    students: Sequence[nn.Module],
    configs: Sequence[StudentConfig],
    teacher: Callable[[Tensor], Tensor] | None = None,
    *,
    engine: str = "auto",
    normalization: Normalization = IMAGENET,
    teacher_normalization: Normalization | None = None,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
) -> list[TrainReport]:
    """Train each student as `train_student` would alone, within float rounding.

    Each student has the order and views of its own seed. Dropout draws differ from those of a student alone.

    Args:
        images, labels, teacher, normalization, teacher_normalization: as in `train_student`.
        students: of one architecture, on one device; trained in place.
        configs: one a student; they may differ in ``seed`` and ``lr``.
        engine: ``"grouped"`` or ``"vmap"`` (see `ddfast.train.stacked.Stacked`), ``"turns"`` for one after the other,
            or ``"auto"``: grouped on a GPU where the network allows it, else vmap; turns on a CPU.
        on_progress: of all students at once; the loss is their mean, the rate counts epochs of one student.
        options: a checkpoint holds all students; tests on the way are not supported.

    Returns:
        One report a student; ``seconds`` is that of all together, except with ``"turns"``.

    Raises:
        ValueError: other numbers of students and configs, configs or networks that differ in more than they may, an
            engine that cannot run them, or tests on the way.
        NonFiniteLossError: the loss of a student became NaN or infinite: names it, and all stop.
        TrainMemoryError, RunError: as in ``ddfast.train.loop.run``.
    """
    options = options or LoopOptions()
    _check(students, configs, engine, options)
    images, labels = check_set(students[0], images, labels)
    common: dict[str, Any] = {"normalization": normalization, "teacher_normalization": teacher_normalization}
    if engine == "turns" or (engine == "auto" and images.device.type == "cpu"):
        return [
            train_student(
                images,
                labels,
                student,
                teacher,
                config,
                on_progress=on_progress,
                options=_own(options, place),
                **common,
            )
            for place, (student, config) in enumerate(zip(students, configs, strict=True))
        ]
    channels_last = to_best_format(students[0])
    for student in students[1:]:
        to_best_format(student)
    stacked = _stacked(students, engine, channels_last)
    parts = [student_loss(images, labels, teacher, config, channels_last=channels_last, **common) for config in configs]
    stacked.rates = [config.lr / configs[0].lr for config in configs]
    who = {"set": set_fingerprint(images, labels), "students": [[c.seed, c.lr] for c in configs], **options.identity}
    objective = _objective(stacked, parts, configs, len(images))
    with batch_norm_twice(stacked.template, configs[0].bn_twice):
        report = loop.run(
            stacked, len(images), configs[0], objective, on_progress, replace(options, identity=who)
        )  # fmt: skip
    stacked.unstack(students)
    for student in students:
        student.train()
    losses: list[Any] = report.losses  # here one list an epoch
    return [replace(report, losses=[each[place] for each in losses]) for place in range(len(students))]


def _objective(
    stacked: Stacked, parts: Sequence[StudentLoss], configs: Sequence[StudentConfig], count: int
) -> Objective:
    size = configs[0].batch_size

    @lru_cache(maxsize=len(parts))
    def order(seed: int, epoch: int) -> Tensor:
        return epoch_order(seed, epoch, count)

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        each = []
        for part, config in zip(parts, configs, strict=True):
            index = order(config.seed, batch.epoch)[batch.step * size : (batch.step + 1) * size]
            each.append(part.prepare(Batch(index, batch.epoch, batch.step)))
        return tuple(torch.stack(tensors) for tensors in zip(*each, strict=True))

    def loss(x: Tensor, *rest: Tensor) -> Tensor:
        logits = stacked(x).float()
        return torch.stack([part.score(logits[k], x[k], *(value[k] for value in rest)) for k, part in enumerate(parts)])

    return Objective(prepare, loss, models=len(parts))


def _stacked(students: Sequence[nn.Module], engine: str, channels_last: bool) -> Stacked:
    if engine != "auto":
        return Stacked(students, engine, channels_last=channels_last)
    try:
        return Stacked(students, "grouped", channels_last=channels_last)
    except ValueError as error:
        if "use engine='vmap'" not in str(error):
            raise
        return Stacked(students, "vmap", channels_last=channels_last)


def _own(options: LoopOptions, place: int) -> LoopOptions:
    """Students that take turns have a checkpoint each."""
    return replace(options, checkpoint=f"{options.checkpoint}.{place}") if options.checkpoint else options


def _check(students: Sequence[nn.Module], configs: Sequence[StudentConfig], engine: str, options: LoopOptions) -> None:
    if engine not in ("auto", "turns", *ENGINES):
        raise ValueError(f"engine: got {engine!r}, expected auto, turns, {', '.join(ENGINES)}")
    if len(students) != len(configs) or not students:
        raise ValueError(f"configs: got {len(configs)} for {len(students)} students, expected one each, at least one")
    if options.validate is not None:
        raise ValueError("options: validate is not supported for several students; test them afterwards")
    if configs[0].parity:
        raise ValueError("configs: parity trains one student at a time; use train_student")
    for place, config in enumerate(configs):
        if replace(config, **_FREE) != replace(configs[0], **_FREE):
            raise ValueError(f"configs: number {place} differs from the first in more than {' and '.join(_FREE)}")
