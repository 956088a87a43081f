"""One task: train one student, test it now and then, and say what came out."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.data.squares import whole_images
from ddfast.evaluation.controls import Subset, random_subset
from ddfast.evaluation.cost import guarded, training_flops
from ddfast.evaluation.plan import DISTILLED, FULL, RANDOM_BYTES, RANDOM_IMAGES, Plan, Spec, Subject
from ddfast.evaluation.protocols import full_config
from ddfast.evaluation.storage import image_format_of
from ddfast.evaluation.students import build_student
from ddfast.evaluation.validation import confusion
from ddfast.nets.settings import torch_threads
from ddfast.train import NonFiniteLossError, TrainProgress, TrainReport, fit, train_student

_FULL_IMAGES = 10_000

Watch = Callable[[TrainProgress], None]


@dataclass
class Curve:
    """Tests a student at chosen epochs of its training."""

    plan: Plan
    student: nn.Module
    subject: Subject
    watch: Watch | None = None
    epochs: list[int] = field(default_factory=list)
    counts: list[Tensor] = field(default_factory=list)

    def __call__(self, state: TrainProgress) -> None:
        """Called after every step."""
        if self.watch is not None:
            self.watch(state)
        if state.step != state.steps or state.epoch not in test_epochs(state.epochs, self.plan.config.curve_points):
            return
        training = self.student.training
        classes = len(self.subject.distilled.class_names)
        found = confusion(
            self.student, self.plan.validation, self.subject.normalization, classes, self.plan.decode_workers
        )
        self.student.train(training)
        self.epochs.append(state.epoch)
        self.counts.append(found)

    def top1(self) -> list[float]:
        """Accuracy in [0, 1] at each tested epoch."""
        return [float(found.diagonal().sum() / found.sum().clamp(min=1)) for found in self.counts]


def test_epochs(epochs: int, points: int) -> set[int]:
    """Epochs (counted from 1) that are tested: ``points`` evenly spaced ones, the last always among them."""
    points = min(points, epochs)
    return {round(epochs * (place + 1) / points) for place in range(points)}


def run_task(plan: Plan, spec: Spec, watch: Watch | None = None) -> dict[str, Any]:
    """Trains and tests the student of one task.

    Args:
        plan: the evaluation.
        spec: the task.
        watch: called after every step.

    Returns:
        A JSON record: ``epochs`` and ``top1`` of the tests (the last is that of the last epoch), ``correct`` and
        ``tested`` per class, ``losses`` per epoch, ``images``, ``bytes``, ``steps``, ``seconds``, ``flops``.

    Raises:
        NonFiniteLossError: names the task, epoch, step and learning rate.
    """
    subject = plan.subject(spec.subject)
    with torch_threads(plan.threads if plan.device == "cpu" else None):
        pictures = training_pictures(plan, subject, spec)
        size, classes = int(subject.distilled.images.shape[1]), len(subject.distilled.class_names)
        student = build_student(
            spec.student, classes, size, seed=1000 * plan.config.seed + spec.seed, width=plan.width
        ).to(plan.device)
        curve = Curve(plan, student, subject, watch)
        began = time.perf_counter()
        try:
            report, views = _train(plan, spec, subject, student, pictures, curve)
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"{spec.id}: {error}. Finished students are kept: go on with --resume, or start anew with another --lr"
            ) from error
    teacher = subject.teacher.module if subject.teacher is not None and spec.labels == "soft" else None
    last = curve.counts[-1]
    return {
        "epochs": curve.epochs,
        "top1": curve.top1(),
        "correct": last.diagonal().tolist(),
        "tested": last.sum(1).tolist(),
        "losses": [round(loss, 6) for loss in report.losses],
        "images": len(pictures.images),
        "bytes": pictures.bytes,
        "steps": report.steps,
        "seconds": round(time.perf_counter() - began, 2),
        "flops": guarded(lambda: training_flops(student, size, views, teacher)),
    }


def training_pictures(plan: Plan, subject: Subject, spec: Spec) -> Subset:
    """The pictures a task trains on; a control's draw differs from seed to seed."""
    distilled = subject.distilled
    if spec.images == DISTILLED:
        return Subset(distilled.images, distilled.labels, subject.storage.total)
    if plan.train is None:
        raise ValueError(f"train: {spec.images} needs the real set; give it with --train")
    size = int(distilled.images.shape[1])
    if spec.images == FULL:
        return _everything(plan, subject.train_targets, size, subject.storage.real_image)
    if spec.images == RANDOM_IMAGES:
        amount: dict[str, Any] = {"counts": distilled.counts}
    elif spec.images == RANDOM_BYTES:
        amount = {"budgets": subject.storage.budget}
    else:
        raise ValueError(f"images: got {spec.images!r}, expected a set or one of the controls")
    seed = 1000 * plan.config.seed + spec.seed
    return random_subset(
        plan.train, subject.train_targets, size, seed=seed, image_format=image_format_of(distilled), **amount
    )


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


def _train(
    plan: Plan, spec: Spec, subject: Subject, student: nn.Module, pictures: Subset, curve: Curve
) -> tuple[TrainReport, int]:
    normalization = subject.normalization
    if spec.images == FULL:
        recipe = full_config(plan.config, len(pictures.images), plan.config.seed + spec.seed)
        report = fit(student, pictures.images, pictures.labels, recipe, normalization=normalization, on_progress=curve)
        return report, recipe.epochs * len(pictures.images)
    config = plan.recipe(spec)
    teacher = subject.teacher if spec.labels == "soft" else None
    if spec.labels == "hard" and config.temperature != 1:
        config = replace(config, temperature=1.0)
    report = train_student(
        pictures.images, pictures.labels, student, None if teacher is None else teacher.on(plan.device), config,
        normalization=normalization, teacher_normalization=None if teacher is None else teacher.normalization,
        on_progress=curve,
    )  # fmt: skip
    return report, config.epochs * len(pictures.images)
