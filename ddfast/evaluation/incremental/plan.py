"""What a class-incremental evaluation trains: a student for each set, order, step and seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch

from ddfast.evaluation.incremental.config import ContinualConfig, class_orders, seen_counts
from ddfast.evaluation.plan import DISTILLED, Plan, Spec, Subject
from ddfast.store import DistilledSet


@dataclass(frozen=True)
class ContinualSpec(Spec):
    """One task: a student of the classes that ``order`` has brought by ``step`` (from 0)."""

    order: int = 0
    step: int = 0

    @property
    def id(self) -> str:
        """Task id in the ledger."""
        student = "".join(letter if letter.isalnum() else "_" for letter in self.student)
        return f"{self.subject}-{student}-order{self.order}-step{self.step}-{self.seed}"


@dataclass(frozen=True)
class ContinualPlan(Plan):
    """A `Plan` whose tasks see some of the classes."""

    settings: ContinualConfig = field(default_factory=ContinualConfig)
    title: ClassVar[str] = "continual"
    unit: ClassVar[str] = "steps"

    @property
    def classes(self) -> int:
        """In all."""
        return len(self.subjects[0].distilled.class_names)

    def seen(self, order: int, step: int) -> tuple[int, ...]:
        """Labels seen after a step (from 0), in the order in which they came."""
        return class_orders(self.classes, order + 1)[order][: seen_counts(self.classes, self.settings.steps)[step]]

    def specs(self) -> list[Spec]:
        """All tasks, those with the most classes first: they take longest."""
        config = self.settings
        return [
            ContinualSpec(subject.key, DISTILLED, "hard", True, student, order * config.seeds + seed, order, step)
            for step in reversed(range(config.steps))
            for order in range(config.orders)
            for subject in self.subjects
            for student in self.students
            for seed in range(config.seeds)
        ]

    def of_task(self, spec: Spec) -> Plan:
        """The plan with the images and test pictures of the classes that are seen."""
        if not isinstance(spec, ContinualSpec):
            raise TypeError(f"spec: got {type(spec).__name__}, expected a ContinualSpec")
        seen = self.seen(spec.order, spec.step)
        subject = narrowed(self.subject(spec.subject), seen)
        return replace(self, subjects=(subject,), validation=replace(self.validation, only=tuple(sorted(seen))))

    def weight(self, spec: Spec) -> int:
        """Steps of the training."""
        if not isinstance(spec, ContinualSpec):
            raise TypeError(f"spec: got {type(spec).__name__}, expected a ContinualSpec")
        whole, recipe = self.subject(spec.subject).distilled, self.recipe(spec)
        counts, times = whole.counts, len(whole.formation.sources(1))
        images = times * sum(counts[label] for label in self.seen(spec.order, spec.step))
        return recipe.epochs * -(-images // recipe.batch_size)

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON."""
        return {**super().identity(), "evaluation": None, "continual": self.settings.as_json()}


def narrowed(subject: Subject, seen: tuple[int, ...]) -> Subject:
    """The same with the images of some classes; labels and outputs stay those of all classes."""
    whole = subject.distilled
    kept = torch.isin(whole.labels, torch.tensor(seen))
    extras = {
        name: extra[kept] if extra.ndim and len(extra) == len(whole) else extra for name, extra in whole.extras.items()
    }
    part = DistilledSet(whole.images[kept], whole.labels[kept], whole.class_names, whole.manifest, extras)
    sizes = [size if label in seen else 0 for label, size in enumerate(subject.storage.per_class)]
    return replace(subject, distilled=part, storage=replace(subject.storage, images=sum(sizes), per_class=tuple(sizes)))
