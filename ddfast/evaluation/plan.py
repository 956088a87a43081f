"""What an evaluation trains: its sets, controls and students, as a list of independent tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

from ddfast._types import IMAGENET, Normalization
from ddfast.data import Source
from ddfast.data.space import Space
from ddfast.evaluation.drawn import distribution_digest, pictures_of_epoch
from ddfast.evaluation.protocols import EvaluationConfig, full_config, protocol, stage_config, student_config
from ddfast.evaluation.recipes import is_drawn
from ddfast.evaluation.staging import UNION, Staging, stage_sizes, staging_of
from ddfast.evaluation.storage import SOFT, Storage, fingerprint, is_distribution
from ddfast.evaluation.stored import fitted
from ddfast.evaluation.teacher import Teacher
from ddfast.evaluation.validation import Validation
from ddfast.store import DistilledSet, LabelStore
from ddfast.store.loader import shows_digits
from ddfast.train import StudentConfig
from ddfast.train.presets import Case

DISTILLED, RANDOM_IMAGES, RANDOM_BYTES, FULL = "distilled", "random-images", "random-bytes", "full"


@dataclass(frozen=True)
class Subject:
    """One distilled set with what belongs to it.

    ``key`` is short and unique, ``name`` is for people; ``labels`` are stored soft labels, which its students are
    trained with instead of the teacher's; ``space`` is given where students train on the images as a matching method
    left them, instead of on visible pixels.
    """

    key: str
    name: str
    distilled: DistilledSet
    storage: Storage
    teacher: Teacher | None
    train_targets: tuple[int, ...]
    labels: LabelStore | None = None
    space: Space | None = None

    @property
    def normalization(self) -> Normalization:
        """Of its students' input."""
        return self.distilled.normalization or IMAGENET

    def case(self, student: str) -> Case:
        """What a recipe depends on."""
        factor = (self.distilled.manifest.get("config") or {}).get("factor") or 1
        classes, size = len(self.distilled.class_names), int(self.distilled.images.shape[1])
        times = len(self.distilled.formation.sources(1))
        images = times * len(self.distilled)
        return Case(student, classes, times * self.distilled.ipc, size, int(factor), images, self.digits)

    @property
    def digits(self) -> bool:
        """Whether the pictures are never mirrored."""
        return shows_digits(self.distilled.manifest)


@dataclass(frozen=True)
class Spec:
    """One task: a student of one set of pictures with one kind of labels."""

    subject: str
    images: str
    labels: str
    augmented: bool
    student: str
    seed: int

    @property
    def id(self) -> str:
        """Task id in the ledger."""
        return f"{self.row_id}-{self.seed}"

    @property
    def row_id(self) -> str:
        """`row` in a word."""
        plain = "" if self.augmented else "-plain"
        student = "".join(letter if letter.isalnum() else "_" for letter in self.student)
        return f"{self.subject}-{self.images}-{self.labels}{plain}-{student}"

    @property
    def row(self) -> tuple[str, str, str, bool, str]:
        """What tasks of different seeds have in common."""
        return self.subject, self.images, self.labels, self.augmented, self.student


@dataclass(frozen=True)
class Plan:
    """Everything a worker needs; picklable, so that it can be sent to other processes."""

    config: EvaluationConfig
    subjects: tuple[Subject, ...]
    students: tuple[str, ...]
    validation: Validation
    train: Source | None
    device: str
    threads: int
    decode_workers: int
    title: ClassVar[str] = "evaluate"
    unit: ClassVar[str] = "students"

    def subject(self, key: str) -> Subject:
        """By its key."""
        return next(subject for subject in self.subjects if subject.key == key)

    @property
    def width(self) -> int:
        """Channels of ConvNet students."""
        return self.config.width or protocol(self.config.preset).width

    @property
    def tests(self) -> int:
        """How often a student is tested."""
        return self.config.curve_points or protocol(self.config.preset).tests

    def recipe(self, spec: Spec) -> StudentConfig:
        """How a task's student is trained, in each stage if there are some: the set's recipe, for the controls too."""
        subject = self.subject(spec.subject)
        case = subject.case(spec.student)
        if self.drawn(subject):
            case = replace(case, images=self.pictures_of_epoch(subject))
        manifest = subject.distilled.manifest
        named: dict[str, Any] = {
            "augmented": spec.augmented, "seed": self.config.seed + spec.seed, "manifest": manifest
        }  # fmt: skip
        staging = self.staging(spec)
        if staging is None:
            config = student_config(self.config, case, **named)
        else:
            config = stage_config(self.config, case, stage_sizes(subject.distilled, staging.mode), **named)
        if self.learned(spec):
            config = replace(config, lr=float(manifest["lr"]))  # learned with the images
        return fitted(config, subject.labels) if subject.labels is not None and spec.augmented else config

    def learned(self, spec: Spec) -> bool:
        """Whether a task's student trains at the rate learned with the images."""
        return self.subject(spec.subject).space is not None and spec.images == DISTILLED and self.config.lr is None

    def drawn(self, subject: Subject) -> bool:
        """Whether a set's students train on a distribution, and those of its controls as they do."""
        return is_drawn(self.config.preset, subject.distilled.manifest)

    def pictures_of_epoch(self, subject: Subject) -> int:
        """How many pictures students of a distribution see in an epoch."""
        return pictures_of_epoch(self.config, subject.distilled)

    def staging(self, spec: Spec) -> Staging | None:
        """How a task's student goes through the stages of its set; None where all pictures are one."""
        subject = self.subject(spec.subject)
        return None if spec.images == FULL else subject_staging(self.config, subject)

    def specs(self) -> list[Spec]:
        """All tasks; those of one row are neighbours."""
        rows = [
            (subject.key, images, labels, augmented, student)
            for subject in self.subjects
            for student in self.students
            for images, labels, augmented in self._variants(subject)
        ]
        return [Spec(*row, seed) for row in rows for seed in range(self.config.seeds)]

    def _variants(self, subject: Subject) -> list[tuple[str, str, bool]]:
        live = subject.teacher is not None and self.config.soft
        own_logits = self.drawn(subject) and SOFT in subject.distilled.extras
        stored = (subject.labels is not None or own_logits) and self.config.soft
        own = "soft" if live or stored else "hard"
        controls = self.config.controls and self.train is not None
        sets = (DISTILLED, *([RANDOM_IMAGES] * controls), *([RANDOM_BYTES] * (controls and self.config.byte_control)))
        found: list[tuple[str, str, bool]] = []
        for images in sets:
            if self.config.hard or not live:
                found.append((images, "hard", True))
            if live or (stored and images == DISTILLED):
                found.append((images, "soft", True))
        if controls and asked(self.config.ars, self.config) and (own == "hard" or live):
            found += [(images, own, False) for images in (DISTILLED, RANDOM_IMAGES)]
        if self.train is not None and asked(self.config.full_data, self.config) and self.config.full_accuracy is None:
            found.insert(0, (FULL, "hard", True))  # the longest first, so that no process is left alone with it
        return found

    def of_task(self, spec: Spec) -> Plan:
        """The plan as one of its tasks sees it."""
        return self

    def weight(self, spec: Spec) -> int:
        """How much work a task is, in ``unit``s."""
        return 1

    def identity(self) -> dict[str, Any]:
        """What decides the results, as JSON: a run may be resumed only with the same."""
        return {
            "evaluation": self.config.as_json(),
            "students": list(self.students),
            "recipes": self._recipes(),
            "sets": [_identity(self.config, subject) for subject in self.subjects],
            "validation": self.validation.source.fingerprint(),
            "train": None if self.train is None else self.train.fingerprint(),
        }

    def _recipes(self) -> dict[str, Any]:
        """Of each row, without the seed; that of the whole real set without what its number of pictures decides."""
        rows = {spec.row_id: spec for spec in self.specs()}
        return {name: {k: v for k, v in self._recipe_of(spec).items() if k != "seed"} for name, spec in rows.items()}

    def _recipe_of(self, spec: Spec) -> dict[str, Any]:
        if spec.images == FULL:
            return asdict(full_config(self.config, 0, 0, digits=self.subject(spec.subject).digits))
        return asdict(self.recipe(spec))


def subject_staging(config: EvaluationConfig, subject: Subject) -> Staging | None:
    """How students go through a set's stages; stored labels are of views of all images at once.

    Raises:
        ValueError: stages were asked for with stored labels.
    """
    if subject.labels is None:
        return staging_of(subject.distilled, config.staged)
    if config.staged not in (None, UNION) and staging_of(subject.distilled, config.staged) is not None:
        raise ValueError(
            f"staged: got {config.staged!r} with stored labels, which are of all images at once; give union"
        )
    return None


def asked(choice: bool | None, config: EvaluationConfig) -> bool:
    """A choice that the protocol makes where the user makes none."""
    return protocol(config.preset).scores if choice is None else choice


def subject_keys(count: int) -> Sequence[str]:
    """``set`` for one set, ``set1``, ``set2`` ... for several."""
    return ["set"] if count == 1 else [f"set{number}" for number in range(1, count + 1)]


def _identity(config: EvaluationConfig, subject: Subject) -> dict[str, Any]:
    teacher = subject.teacher
    known = subject.distilled.manifest.get("observer") or {}
    # an observer that is trained again counts by its original: its own last bits may differ from worker to worker
    weights = None if teacher is None else known.get("weights") if teacher.again else teacher.weights
    staging = subject_staging(config, subject)
    return {
        "sha256": fingerprint(subject.distilled),
        "name": subject.name,
        "space": subject.distilled.manifest["space"] if subject.space is not None else "pixels",
        "teacher": None if teacher is None else {"name": teacher.name, "weights": weights},
        "labels": None if subject.labels is None else dict(subject.labels.fingerprint),
        **({} if staging is None else {"stages": staging.as_json()}),
        **({"distribution": distribution_digest(subject.distilled)} if is_distribution(subject.distilled) else {}),
    }
