"""How students are trained: named protocols, and the settings of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

from ddfast.evaluation.recipes import D3, VIEWS, d3_recipe, recipe_name, short_recipe, short_stage, shortened
from ddfast.train import StudentConfig, TrainConfig
from ddfast.train.demo_recipe import OBSERVER, STUDENT, WIDTH
from ddfast.train.drawn import FRESH
from ddfast.train.presets import Case, dsa_preset, preset
from ddfast.train.staged import MODES

_SMOKE_VALIDATION = 1_000


def setting(default: Any, help: str, **extra: Any) -> Any:
    """A dataclass field that carries its command-line help."""
    return field(default=default, metadata={"help": help, **extra})


@dataclass(frozen=True)
class EvaluationConfig:
    """What is trained and tested; everything here may change the figures."""

    seeds: int = setting(3, "students of each kind; mean and standard deviation are over them")
    seed: int = setting(0, "seed of initial weights, order, augmentation and random subsets")
    preset: str = setting("rded", "training recipe: rded, fkd, hard_label, dc, dsa, idc, d3 or smoke", cli=False)
    controls: bool = setting(True, "also train on random real pictures, at equal images and at equal bytes")
    byte_control: bool = setting(True, "among the controls, random pictures of equal bytes; they may be thousands")
    hard: bool = setting(True, "also train with hard labels where there are soft ones")
    soft: bool = setting(True, "also train with the teacher's soft labels, where there is a teacher")
    ars: bool | None = setting(None, "also train without augmentation, for the augmentation-robust score")
    full_data: bool | None = setting(None, "also train on the whole real set, for the label-robust score")
    full_accuracy: float | None = setting(None, "accuracy of the whole real set, where known (a fraction)")
    best: bool = setting(False, "also report the best of the tests (chosen on test data; labelled so)")
    curve_points: int | None = setting(None, "tests along a training, the last epoch included (smoke: 4, else 10)")
    val_per_class: int | None = setting(None, "test pictures per class, the first ones (default: all)")
    epochs: int | None = setting(
        None, "epochs, instead of the recipe's; of a set with stages, those of each stage (there half the recipe's)"
    )
    batch_size: int | None = setting(None, "images per step, instead of the recipe's")
    lr: float | None = setting(None, "peak learning rate, instead of the recipe's")
    width: int | None = setting(None, "channels of ConvNet students, instead of the recipe's")
    staged: str | None = setting(
        None, "how students train on a set with stages (pdd): progressive, on the first stage's images, then on those "
        "of the first two ...; sequential, on each stage's alone in turn; or union, on all at once, at the last rate "
        "(default: progressive); other sets have none"
    )  # fmt: skip
    fresh: str | None = setting(
        None, "what students of a distribution (d3) see: epoch, the means and in each epoch a new sample of each "
        "prior; batch, a draw for every batch and no means; or none, the means alone (default: epoch; none for a set "
        "distilled without sampling)"
    )  # fmt: skip

    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {"staged": MODES, "fresh": FRESH}

    def __post_init__(self) -> None:
        for name in ("seeds", "curve_points", "val_per_class", "epochs", "batch_size", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value!r}, expected 1 or more")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in (None, *allowed):
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed!r}, expected 0 or more")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise ValueError(f"lr: got {self.lr!r}, expected a positive number")
        if self.full_accuracy is not None and not 0 <= self.full_accuracy <= 1:
            raise ValueError(f"full_accuracy: got {self.full_accuracy!r}, expected a fraction in [0, 1]")
        protocol(self.preset)

    def as_json(self) -> dict[str, Any]:
        """Every setting, for the report and the run's description."""
        return asdict(self)


@dataclass(frozen=True)
class Protocol:
    """A named recipe: where it comes from, what it does, a `StudentConfig` for each case.

    ``stage`` is that of one stage of several, given the pictures of an epoch of each stage; None for ``recipe`` with
    half the epochs.
    """

    name: str
    about: str
    recipe: Callable[[Case], StudentConfig]
    width: int = 128
    scores: bool = False
    tests: int = 10
    val_images: int | None = None
    stage: Callable[[Case, Sequence[int]], StudentConfig] | None = None


def protocol(name: str) -> Protocol:
    """The protocol of this name; ValueError when there is none."""
    if name not in PROTOCOLS:
        raise ValueError(f"preset: got {name!r}, expected one of {', '.join(sorted(PROTOCOLS))}")
    return PROTOCOLS[name]


def student_config(
    config: EvaluationConfig, case: Case, *, augmented: bool = True, seed: int = 0,
    manifest: Mapping[str, Any] | None = None,
) -> StudentConfig:  # fmt: skip
    """The recipe of a set's students for a case, with single values replaced.

    Args:
        config: the evaluation's settings.
        case: what is trained.
        augmented: False drops shift, flip, patch shuffle, crops and CutMix.
        seed: of the training.
        manifest: the set's, whose own recipe the preset ``smoke`` shortens (`recipe_name`).
    """
    manifest = manifest or {}
    if recipe_name(config.preset, manifest) != config.preset:
        recipe = short_recipe(case, manifest)
    else:
        recipe = d3_recipe(case, manifest) if config.preset == D3 else protocol(config.preset).recipe(case)
    return _changed(config, recipe, case, augmented, seed)


def stage_config(
    config: EvaluationConfig, case: Case, sizes: Sequence[int], *, augmented: bool = True, seed: int = 0,
    manifest: Mapping[str, Any] | None = None,
) -> StudentConfig:  # fmt: skip
    """The recipe of one stage of a set with stages, where `student_config` is that of the set in one go.

    Args:
        config: the evaluation's settings.
        case: the whole set.
        sizes: pictures of an epoch of each stage.
        augmented, seed, manifest: as in `student_config`.
    """
    chosen, manifest = protocol(config.preset), manifest or {}
    if recipe_name(config.preset, manifest) != config.preset:
        recipe = short_stage(case, sizes, manifest)
    elif chosen.stage is not None:
        recipe = chosen.stage(case, sizes)
    else:
        whole = chosen.recipe(case)
        recipe = shortened(whole, max(1, whole.epochs // 2))
    recipe = replace(recipe, reset_momentum=False)  # PDD's program lowers the rate of one optimiser, all along
    return _changed(config, recipe, case, augmented, seed)


def _changed(config: EvaluationConfig, recipe: StudentConfig, case: Case, augmented: bool, seed: int) -> StudentConfig:
    if config.epochs is not None:
        recipe = shortened(recipe, config.epochs)
    given: dict[str, Any] = {k: getattr(config, k) for k in ("batch_size", "lr") if getattr(config, k) is not None}
    recipe = replace(recipe, **given, seed=seed)
    recipe = replace(recipe, batch_size=min(recipe.batch_size, case.count))
    if augmented:
        return recipe
    return replace(recipe, shift=0, flip=False, factor=1, crop=None, cutmix_alpha=0.0, dsa="", idc="", cutmix_share=0.0)


def full_config(config: EvaluationConfig, images: int, seed: int, *, digits: bool = False) -> TrainConfig:
    """How a student of the whole real set is trained: SGD, one cycle, hard labels; ``digits`` are not mirrored."""
    if config.preset == "smoke":
        return replace(OBSERVER, seed=seed, epochs=max(1, min(OBSERVER.epochs, 4 * VIEWS // (3 * max(images, 1)))))
    return TrainConfig(epochs=30, batch_size=128, lr=0.1, shift=2, flip=not digits, seed=seed)


def val_limit(config: EvaluationConfig, classes: int) -> int | None:
    """Test pictures per class: as asked, or the smoke recipe's limit."""
    limit = protocol(config.preset).val_images
    if config.val_per_class is not None or limit is None:
        return config.val_per_class
    return max(1, limit // classes)


def _paper(name: str) -> Callable[[Case], StudentConfig]:
    """A recipe of `ddfast.train.presets`; networks that RDED's program has no rate for take its ConvNets'."""

    def recipe(case: Case) -> StudentConfig:
        try:
            return preset(name, case)
        except ValueError:
            return preset(name, case, lr=1e-3)

    return recipe


def _smoke(case: Case) -> StudentConfig:
    epochs = max(2, min(STUDENT.epochs, VIEWS // case.count))
    return replace(STUDENT, epochs=epochs, batch_size=min(STUDENT.batch_size, max(10, case.count // 2)))


def _smoke_stage(case: Case, sizes: Sequence[int]) -> StudentConfig:
    """As many views of all stages together as of the set in one go."""
    whole = _smoke(case)
    return replace(whole, epochs=max(1, whole.epochs * case.count // sum(sizes)))


def _dsa_stage(case: Case, sizes: Sequence[int]) -> StudentConfig:
    return dsa_preset(case, epochs=500)


PROTOCOLS = {
    "smoke": Protocol(
        "smoke",
        "a narrow student, at most 12,000 views and 1,000 test pictures: minutes on two cores, for tries; sets of "
        "matching methods and D3's by the recipe that their manifest names, shortened",
        _smoke,
        width=WIDTH,
        scores=True,
        tests=4,
        val_images=_SMOKE_VALIDATION,
        stage=_smoke_stage,
    ),
    "rded": Protocol(
        "rded",
        "RDED's (arXiv 2312.03526): AdamW, 300 epochs of half a cosine, patch shuffle, crops, CutMix, T = 20",
        _paper("rded"),
    ),
    "dsa": Protocol(
        "dsa",
        "that of DSA, DM and MTT: SGD, 1000 epochs, rate / 10 halfway, differentiable Siamese augmentation",
        _paper("dsa"),
        stage=_dsa_stage,
    ),
    "dc": Protocol(
        "dc",
        "DC's (arXiv 2006.05929): SGD, 300 epochs, rate / 10 halfway, no augmentation",
        _paper("dc"),
    ),
    "idc": Protocol(
        "idc",
        "IDC's (arXiv 2205.14959): SGD, 1000 epochs, rate x 0.2 after 2/3 and 5/6, its augmentation, CutMix",
        _paper("idc"),
    ),
    D3: Protocol(
        D3,
        "D3's (arXiv 2403.00999): SGD, 2000 epochs of means and fresh samples, rate / 10 halfway, differentiable "
        "Siamese augmentation, T = 1",
        lambda case: d3_recipe(case, {}),
    ),
    "fkd": Protocol(
        "fkd",
        "SRe2L's (arXiv 2306.13092): AdamW, 300 epochs of a cosine, crops of 8 to 100 % of the area, CutMix, T = 20",
        _paper("fkd"),
    ),
    "hard_label": Protocol(
        "hard_label",
        "SGD with momentum, 300 epochs of a cosine, flips and shifts, no mixing",
        _paper("hard_label"),
    ),
}
