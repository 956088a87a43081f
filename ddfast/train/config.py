"""What a training needs to know and what it says: settings, progress, report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ddfast.train.schedules import MILESTONES, SCHEDULES


class NonFiniteLossError(FloatingPointError):
    """The loss became NaN or infinite; the message names epoch, step, loss, learning rate and the last checkpoint."""


@dataclass(frozen=True)
class TrainConfig:
    """What decides the result of a training; ``lr`` is the peak of the schedule, ``shift`` is in pixels.

    ``nesterov`` and ``momentum`` are SGD's. ``decay_all`` decays biases and norms too, as plain ``torch.optim.SGD`` on
    all parameters does. With ``schedule="milestones"`` the rate is multiplied by ``drop`` from each epoch in
    ``milestones`` on (counted from 0), where ``reset_momentum`` also starts the momentum anew. ``ema`` is the decay per
    step of an exponential moving average of the weights, which is then what is tested and returned; 0 switches it off.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "one_cycle"
    shift: int = 0
    flip: bool = False
    precision: str = "fp32"
    seed: int = 0
    nesterov: bool = True
    decay_all: bool = False
    milestones: tuple[int, ...] = ()
    drop: float = 0.1
    reset_momentum: bool = False
    ema: float = 0.0

    def __post_init__(self) -> None:
        for name, value, known in (
            ("optimizer", self.optimizer, ("sgd", "adamw")),
            ("schedule", self.schedule, (*SCHEDULES, MILESTONES)),
            ("precision", self.precision, ("fp32", "bf16")),
        ):
            if value not in known:
                raise ValueError(f"{name}: got {value!r}, expected one of {', '.join(known)}")
        for name, count in (("epochs", self.epochs), ("batch_size", self.batch_size)):
            if count < 1:
                raise ValueError(f"{name}: got {count!r}, expected 1 or more")
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr!r}, expected a positive number")
        if not 0 < self.drop <= 1:
            raise ValueError(f"drop: got {self.drop!r}, expected a factor in (0, 1]")
        if self.shift < 0:
            raise ValueError(f"shift: got {self.shift!r}, expected a number of pixels, 0 or more")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: got {self.ema!r}, expected a decay in [0, 1), such as 0.999; 0 is off")
        if (self.schedule == MILESTONES) != bool(self.milestones):
            raise ValueError(
                f"milestones: got {self.milestones!r} with schedule {self.schedule!r}, expected both or none"
            )


@dataclass(frozen=True)
class TrainProgress:
    """State after a step: counts, last loss, learning rate, images/s and seconds left at that rate."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    lr: float
    seconds: float
    images_per_second: float
    eta_seconds: float


@dataclass(frozen=True)
class Tested:
    """Accuracy in [0, 1] after an epoch (counted from 1)."""

    epoch: int
    top1: float


@dataclass(frozen=True)
class TrainReport:
    """Mean loss of each epoch, steps taken, wall seconds (of all sittings of a resumed training), images/s, tests."""

    losses: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    tested: list[Tested] = field(default_factory=list)

    @property
    def last(self) -> Tested | None:
        """The last test: the figure to quote."""
        return self.tested[-1] if self.tested else None

    @property
    def best(self) -> Tested | None:
        """The best test, the earliest of equals. It was chosen on the tested data: say so wherever it is quoted."""
        return max(self.tested, key=lambda each: (each.top1, -each.epoch)) if self.tested else None

    def accuracy_text(self) -> str:
        """Last and best with their labels, for people; empty without tests."""
        if self.last is None or self.best is None:
            return ""
        best = f"best of {len(self.tested)} tests {100 * self.best.top1:.2f} % (epoch {self.best.epoch}, "
        return f"last epoch {100 * self.last.top1:.2f} %; {best}chosen on the test data)"


OnProgress = Callable[[TrainProgress], None]
