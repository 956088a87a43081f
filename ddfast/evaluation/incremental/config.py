"""Settings of a class-incremental evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ddfast.evaluation.protocols import EvaluationConfig, setting


@dataclass(frozen=True)
class ContinualConfig:
    """What is trained and tested; everything here may change the figures.

    The protocol of DM (Zhao & Bilen, WACV 2023, section 4.4), which others follow: classes come in ``steps`` equal
    steps, in the order of a permutation with NumPy's seeds 0, 1, ...; at each step a new student is trained from
    scratch, with hard labels, on the distilled images of all classes seen so far, and tested on all classes seen so
    far. Its outputs are those of all classes, of which it may name any.
    """

    steps: int = setting(5, "steps in which the classes come")
    orders: int = setting(5, "class orders: permutations by NumPy's seeds 0, 1, ...")
    seeds: int = setting(3, "students of each order and step; mean and deviation are over orders and students")
    seed: int = setting(0, "seed of initial weights, order of images and augmentation")
    preset: str = setting("dsa", "training recipe: rded, fkd, hard_label, dsa or smoke", cli=False)
    val_per_class: int | None = setting(None, "test pictures per class, the first ones (default: all)")
    epochs: int | None = setting(None, "epochs, instead of the recipe's")
    batch_size: int | None = setting(None, "images per step, instead of the recipe's")
    lr: float | None = setting(None, "peak learning rate, instead of the recipe's")
    width: int | None = setting(None, "channels of ConvNet students, instead of the recipe's")

    def __post_init__(self) -> None:
        for name in ("steps", "orders"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        self.evaluation()

    def evaluation(self) -> EvaluationConfig:
        """The settings of each student's training and of its one test, after the last epoch.

        Raises:
            ValueError: a value is out of range.
        """
        values = {k: v for k, v in asdict(self).items() if k not in ("steps", "orders")}
        return EvaluationConfig(
            **values,
            controls=False,
            soft=False,
            ars=False,
            full_data=False,
            curve_points=1,
            byte_control=False,
            staged="union",
        )

    def as_json(self) -> dict[str, Any]:
        """Every setting, for the report and the run's description."""
        return asdict(self)


def class_orders(classes: int, orders: int) -> tuple[tuple[int, ...], ...]:
    """Permutations of the labels: ``numpy.random.RandomState(s).permutation(classes)`` for s = 0, 1, ...

    It is the stream of ``numpy.random.seed(s); numpy.random.permutation(classes)``, which NumPy keeps for good.
    """
    drawn = (np.random.RandomState(seed).permutation(classes) for seed in range(orders))
    return tuple(tuple(order.tolist()) for order in drawn)


def seen_counts(classes: int, steps: int) -> tuple[int, ...]:
    """Classes seen after each step; where they do not divide evenly, steps differ by one class.

    Raises:
        ValueError: more steps than classes.
    """
    if steps > classes:
        raise ValueError(f"steps: got {steps}, expected at most as many as there are classes, {classes}")
    return tuple(classes * step // steps for step in range(1, steps + 1))
