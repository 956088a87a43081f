"""One task: train one student, test it now and then, and say what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.data.space import Space
from ddfast.data.squares import whole_images
from ddfast.evaluation.controls import Subset, random_subset
from ddfast.evaluation.cost import guarded, machine_name, training_flops
from ddfast.evaluation.drawn import decoding_cost, decoding_record, price, train_drawn
from ddfast.evaluation.plan import DISTILLED, FULL, RANDOM_BYTES, RANDOM_IMAGES, Plan, Spec, Subject
from ddfast.evaluation.protocols import full_config
from ddfast.evaluation.staging import lesson_epochs, lessons_of, views
from ddfast.evaluation.storage import image_format_of
from ddfast.evaluation.students import build_student
from ddfast.evaluation.validation import confusion
from ddfast.nets.settings import torch_threads
from ddfast.train import (
    Lesson,
    LoopOptions,
    NonFiniteLossError,
    StudentConfig,
    TrainConfig,
    TrainReport,
    fit,
    train_in_stages,
    train_student,
)
from ddfast.train.data_parallel import Group
from ddfast.train.loop import OnProgress
from ddfast.train.staged import stage_checkpoint

_FULL_IMAGES = 10_000


@dataclass
class Tests:
    """Tests a student when the training asks for it; keeps the last confusion table."""

    plan: Plan
    subject: Subject
    space: Space | None = None
    group: Group | None = None
    last: Tensor | None = None
    seconds: float = 0.0

    def __call__(self, student: nn.Module) -> float:
        """Accuracy in [0, 1]."""
        begun = time.perf_counter()
        classes = len(self.subject.distilled.class_names)
        workers = self.plan.decode_workers
        if self.space is not None:
            student = self.space.before(student).to(self.plan.device).eval()
        found = confusion(student, self.plan.validation, self.subject.normalization, classes, workers, self.group)
        self.last = found
        self.seconds += time.perf_counter() - begun
        return float(found.diagonal().sum() / found.sum().clamp(min=1))


def test_epochs(epochs: int, points: int) -> set[int]:
    """Epochs (counted from 1) that are tested: ``points`` evenly spaced ones, the last always among them."""
    points = min(points, epochs)
    return {round(epochs * (place + 1) / points) for place in range(points)}


def run_task(
    plan: Plan,
    spec: Spec,
    watch: OnProgress | None = None,
    checkpoint: Path | None = None,
    done: Callable[[str], Mapping[str, Any] | None] | None = None,
    group: Group | None = None,
) -> dict[str, Any]:
    """Trains and tests the student of one task.

    Args:
        plan: the evaluation.
        spec: the task.
        watch: called after every step.
        checkpoint: file that a killed training goes on from; removed at the end.
        done: record of a finished task by its id, or None. Where equal bytes pay for just as many pictures as equal
            images, both controls are the same pictures, and are trained on once.
        group: ranks that train this student together, each calling with the same arguments.

    Returns:
        A JSON record: ``epochs`` and ``top1`` of the tests (the last is that of the last epoch), ``correct`` and
        ``tested`` per class, ``losses`` per epoch, ``images``, ``bytes``, ``steps``, ``seconds`` on ``machine``,
        ``flops``; where it went through stages, ``stages`` with ``images``, ``epochs``, ``lr`` and ``top1`` of each; of
        a distributional set and its controls ``label_bytes``, and ``decoding`` with the ``share`` of the training that
        sampling and decoding took (tests left out), its ``seconds`` and the ``pictures`` decoded.

    Raises:
        NonFiniteLossError: names the task, epoch, step and learning rate.
    """
    plan = plan.of_task(spec)
    subject = plan.subject(spec.subject)
    with torch_threads(plan.threads if plan.device == "cpu" else None):
        pictures = training_pictures(plan, subject, spec)
        twin = _twin(spec, subject, pictures)
        if twin is not None and done is not None and (record := done(twin.id)) is not None:
            return dict(record)
        size, classes = int(subject.distilled.images.shape[1]), len(subject.distilled.class_names)
        seed = 1000 * plan.config.seed + spec.seed
        student = build_student(spec.student, classes, size, seed=seed, width=plan.width).to(plan.device)
        tests = Tests(plan, subject, None if spec.images == FULL else subject.space, group)
        recipe = _recipe(plan, spec, subject, pictures)
        lessons = lessons_of(plan, spec, subject, pictures.labels)
        ends = [recipe.epochs] if lessons is None else lesson_epochs(lessons)
        options = LoopOptions(
            checkpoint=checkpoint, identity={"task": spec.id}, validate=tests,
            test_epochs=test_epochs(ends[-1], plan.tests) | set(ends), group=group,
        )  # fmt: skip
        drawn = spec.images != FULL and plan.drawn(subject)
        sampled, begun = None, time.perf_counter()
        try:
            if drawn and isinstance(recipe, StudentConfig):
                report, sampled = train_drawn(plan, spec, subject, student, pictures, recipe, watch, options)
            else:
                report = _train(plan, spec, subject, student, pictures, recipe, lessons, watch, options)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{spec.id}: {error}. Finished students are kept: go on with --resume, or start anew with another --lr"
            ) from error
        decoding = decoding_record(sampled, time.perf_counter() - begun - tests.seconds)
        if tests.last is None:  # killed between the last epoch and the record
            tests(student)
    last: Any = tests.last
    live = subject.teacher is not None and spec.labels == "soft" and not (drawn or _stored(subject, spec))
    teacher = subject.teacher.module if subject.teacher is not None and live else None
    if checkpoint is not None and (group is None or group.leads):
        for file in (checkpoint, *(stage_checkpoint(checkpoint, stage) for stage in range(len(lessons or ())))):
            file.unlink(missing_ok=True)
    seen = report_views(plan, spec, subject, len(pictures.images), recipe.epochs) if lessons is None else views(lessons)
    cost = decoding_cost(plan, subject, spec, recipe) if drawn and isinstance(recipe, StudentConfig) else 0
    return {
        "epochs": [test.epoch for test in report.tested],
        "top1": [test.top1 for test in report.tested],
        "correct": last.diagonal().tolist(),
        "tested": last.sum(1).tolist(),
        "losses": [round(loss, 6) for loss in report.losses],
        "images": len(pictures.images),
        "bytes": pictures.bytes,
        "steps": report.steps,
        "seconds": round(report.seconds, 2),
        "machine": machine_name(plan.device),
        "flops": guarded(lambda: training_flops(student, size, seen, teacher, decoding=cost)),
        **({"label_bytes": pictures.label_bytes, **decoding} if drawn else {}),
        **({} if lessons is None else {"stages": _stages(lessons, report)}),
    }


def report_views(plan: Plan, spec: Spec, subject: Subject, images: int, epochs: int) -> int:
    """Pictures seen in a training in one go: with a distribution's recipe each stored item counts as it does there."""
    if spec.images == FULL or not plan.drawn(subject):
        return epochs * images
    return epochs * images * plan.pictures_of_epoch(subject) // len(subject.distilled)


def _stages(lessons: list[Lesson], report: TrainReport) -> list[dict[str, Any]]:
    """What was trained in each stage, and the test at its end."""
    tests = {test.epoch: test.top1 for test in report.tested}
    return [
        {"images": len(lesson.rows), "epochs": lesson.config.epochs, "lr": lesson.config.lr, "top1": tests[end]}
        for lesson, end in zip(lessons, lesson_epochs(lessons), strict=True)
    ]


def training_pictures(plan: Plan, subject: Subject, spec: Spec) -> Subset:
    """The pictures a task trains on; a control's draw differs from seed to seed."""
    distilled = subject.distilled
    paid = price(subject, spec.labels, drawn=plan.drawn(subject))
    if spec.images == DISTILLED:
        made = distilled.decoded()
        return Subset(made.images, made.labels, paid.total, paid.label * len(made.labels))
    if plan.train is None:
        raise ValueError(f"train: {spec.images} needs the real set; give it with --train")
    size = int(distilled.images.shape[1])
    if spec.images == FULL:
        return _everything(plan, subject.train_targets, size, subject.storage.real_image)
    if spec.images == RANDOM_IMAGES:
        amount: dict[str, Any] = {"counts": distilled.counts}
    elif spec.images == RANDOM_BYTES:
        amount = {"budgets": paid.budget}
    else:
        raise ValueError(f"images: got {spec.images!r}, expected a set or one of the controls")
    seed = 1000 * plan.config.seed + spec.seed
    return random_subset(
        plan.train, subject.train_targets, size, seed=seed, image_format=image_format_of(distilled),
        label_bytes=paid.label, **amount,
    )  # fmt: skip


def _twin(spec: Spec, subject: Subject, pictures: Subset) -> Spec | None:
    """The task of the other control if it has the same pictures: one draw, cut at the same counts."""
    same = spec.images == RANDOM_BYTES and torch.bincount(pictures.labels).tolist() == subject.distilled.counts
    return replace(spec, images=RANDOM_IMAGES) if same else None


def _everything(plan: Plan, targets: tuple[int, ...], size: int, real_image: float | None) -> Subset:
    if plan.train is None:
        raise ValueError("train: training on the whole real set needs it; give it with --train")
    images, labels = _whole(plan, size, -(-_FULL_IMAGES // len(targets)))
    place = {label: number for number, label in enumerate(targets)}
    kept = torch.tensor([label in place for label in labels.tolist()])
    mapped = torch.tensor([place[label] for label in labels[kept].tolist()], dtype=torch.int64)
    return Subset(images[kept], mapped, round(int(kept.sum()) * (real_image or images[0].numel())))


@lru_cache(maxsize=1)
def _whole_of(key: int, size: int, per_class: int) -> tuple[Tensor, Tensor]:
    return whole_images(_SOURCES[key], size, per_class)


_SOURCES: dict[int, Any] = {}


def _whole(plan: Plan, size: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Read once for all students of the whole set that this process trains."""
    _SOURCES[id(plan.train)] = plan.train
    return _whole_of(id(plan.train), size, per_class)


def _recipe(plan: Plan, spec: Spec, subject: Subject, pictures: Subset) -> TrainConfig:
    if spec.images == FULL:
        return full_config(plan.config, len(pictures.images), plan.config.seed + spec.seed, digits=subject.digits)
    config = plan.recipe(spec)
    if _stored(subject, spec) and subject.labels is not None and not subject.labels.per_image:
        # stored labels belong to one order and one set of views; the students differ in their initial weights
        config = replace(config, seed=int(subject.labels.fingerprint["seed"]))
    return config


def _stored(subject: Subject, spec: Spec) -> bool:
    return subject.labels is not None and spec.images == DISTILLED and spec.labels == "soft" and spec.augmented


def _train(
    plan: Plan,
    spec: Spec,
    subject: Subject,
    student: nn.Module,
    pictures: Subset,
    recipe: TrainConfig,
    lessons: list[Lesson] | None,
    watch: OnProgress | None,
    options: LoopOptions,
) -> TrainReport:
    images = _in_space(subject, spec, pictures)
    common: dict[str, Any] = {"normalization": subject.normalization, "on_progress": watch, "options": options}
    if not isinstance(recipe, StudentConfig):
        return fit(student, pictures.images, pictures.labels, recipe, **common)
    if _stored(subject, spec):
        return train_student(images, pictures.labels, student, None, recipe, soft_labels=subject.labels, **common)
    teacher = subject.teacher if spec.labels == "soft" else None
    common["teacher_normalization"] = None if teacher is None else teacher.normalization
    module = None if teacher is None else teacher.on(plan.device)
    if lessons is None:
        return train_student(images, pictures.labels, student, module, recipe, **common)
    staging = plan.staging(spec)
    carried = staging is not None and staging.carried
    return train_in_stages(images, pictures.labels, student, module, lessons, carried=carried, **common)


def _in_space(subject: Subject, spec: Spec, pictures: Subset) -> Tensor:
    """What students are given: bytes, or with a space their input itself."""
    if subject.space is None:
        return pictures.images
    if spec.images == DISTILLED:
        return subject.distilled.extras["trained_images"]
    return subject.space.apply(pictures.images)
