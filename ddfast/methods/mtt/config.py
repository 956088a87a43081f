"""MTT's settings, and the rows of its published tables as presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option
from ddfast.train.adjoint.unroll import MEMORIES
from ddfast.train.experts import ExpertConfig


@dataclass(frozen=True)
class MTTConfig(MatchingConfig):
    """Settings that decide what is distilled (MTT: Cazenavette et al., CVPR 2022, arXiv 2203.11932).

    Each iteration takes an expert at epoch t, uniform in [min_start_epoch, max_start_epoch), trains a student from its
    weights for ``syn_steps`` steps on the synthetic set, and moves the images and the student's learning rate against
    the gradient of ``|theta_N - theta*|^2 / |theta_0 - theta*|^2``, theta* being the expert ``expert_epochs`` later.
    """

    zca: bool = option(True, "whiten the pictures first")
    experts: int = option(100, "expert trajectories")
    expert_train_epochs: int = option(50, "epochs each expert is trained for")
    expert_lr: float = option(0.01, "learning rate of the experts")
    expert_batch: int = option(256, "pictures a step of the experts")
    buffers: str | None = option(
        None, "folder of trained experts, or of MTT's replay_buffer_*.pt (default: train them)"
    )
    syn_steps: int = option(50, "steps of the student in an iteration")
    expert_epochs: int = option(2, "epochs between the expert's two snapshots")
    min_start_epoch: int = option(0, "first epoch an iteration may start from")
    max_start_epoch: int = option(2, "epoch before which an iteration starts")
    batch_syn: int | None = option(None, "synthetic images a step (default: all)")
    lr_img: float = option(100.0, "learning rate of the images")
    lr_lr: float = option(1e-7, "learning rate of the student's learning rate")
    lr_teacher: float = option(0.01, "the student's learning rate at the start")
    momentum: float = option(0.5, "of both")
    iterations: int = option(5000, "outer iterations")
    soft_labels: bool = option(False, "also learn labels, from the experts' predictions on the initial images")
    lr_label: float = option(2.0, "learning rate of the labels' logits")
    ema: float = option(0.0, "moving average of the images that is evaluated and kept; 0 is off")
    test: str = option("split", "how images are chosen: split (best on held-out training pictures) or none (the last)")
    memory: str = option("store", "store each step's activations, or recompute them")

    counts: ClassVar[tuple[str, ...]] = (
        "ipc", "experts", "expert_train_epochs", "expert_batch", "syn_steps", "expert_epochs", "iterations",
        "eval_every", "eval_students", "eval_epochs", "max_start_epoch",
    )  # fmt: skip
    rates: ClassVar[tuple[str, ...]] = ("lr_img", "lr_teacher", "expert_lr")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {**MatchingConfig.choices, "memory": MEMORIES}
    indifferent: ClassVar[tuple[str, ...]] = ("preset", "memory")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.min_start_epoch < self.max_start_epoch:
            raise ValueError(
                f"min_start_epoch: got {self.min_start_epoch} with max_start_epoch {self.max_start_epoch}, expected "
                "0 or more, and less"
            )
        if self.max_start_epoch - 1 + self.expert_epochs > self.expert_train_epochs:
            raise ValueError(
                f"max_start_epoch: got {self.max_start_epoch} with expert_epochs {self.expert_epochs}; an iteration "
                f"would end at epoch {self.max_start_epoch - 1 + self.expert_epochs}, but experts are trained for "
                f"{self.expert_train_epochs}"
            )
        if self.batch_syn is not None and self.batch_syn < 1:
            raise ValueError(f"batch_syn: got {self.batch_syn!r}, expected 1 or more (default: all images)")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema: got {self.ema!r}, expected a decay in [0, 1); 0 is off")

    def expert_config(self) -> ExpertConfig:
        """How its experts are trained."""
        return ExpertConfig(
            self.experts, self.expert_train_epochs, self.expert_batch, self.expert_lr, self.dsa, self.precision,
            self.seed,
        )  # fmt: skip

    def expert_info(self) -> dict[str, str]:
        """What their store says about the pictures."""
        return {"space": "zca" if self.zca else "normalized"}

    @property
    def keeps_best(self) -> bool:
        """The images that tested best, where there are tests."""
        return self.test != "none"


def _row(
    ipc: int, steps: int, span: int, start: int, batch: int | None, lr_img: float, lr_lr: float, lr: float, zca: bool,
    **more: Any,
) -> dict[str, Any]:  # fmt: skip
    return {
        "ipc": ipc, "syn_steps": steps, "expert_epochs": span, "max_start_epoch": start, "batch_syn": batch,
        "lr_img": lr_img, "lr_lr": lr_lr, "lr_teacher": lr, "zca": zca, **more,
    }  # fmt: skip


_TINY = {"size": 64, "depth": 4}

# The authors' list of best settings; "-2022" are the rows of the first table in circulation, which PDD builds on.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10-ipc1": _row(1, 50, 2, 2, None, 100.0, 1e-7, 0.01, True),
    "cifar10-ipc10": _row(10, 30, 2, 20, None, 100.0, 1e-5, 0.001, True),
    "cifar10-ipc50": _row(50, 30, 2, 40, None, 1000.0, 1e-5, 0.001, False),
    "cifar10-ipc1-2022": _row(1, 50, 2, 5, None, 1000.0, 1e-7, 0.01, True),
    "cifar10-ipc10-2022": _row(10, 30, 2, 15, None, 1000.0, 1e-5, 0.01, True),
    "cifar100-ipc1": _row(1, 20, 3, 20, None, 1000.0, 1e-5, 0.01, True),
    "cifar100-ipc10": _row(10, 20, 2, 20, None, 1000.0, 1e-5, 0.01, False),
    "cifar100-ipc50": _row(50, 80, 2, 40, 125, 1000.0, 1e-5, 0.01, True),
    "tinyimagenet-ipc1": _row(1, 10, 2, 10, None, 1e4, 1e-4, 0.01, False, **_TINY),
    "tinyimagenet-ipc10": _row(10, 20, 2, 40, 200, 1e4, 1e-4, 0.01, False, **_TINY),
    "tinyimagenet-ipc50": _row(50, 20, 2, 40, 300, 1e4, 1e-4, 0.01, False, **_TINY),
    "smoke": _row(
        1, 8, 1, 2, None, 30.0, 1e-4, 0.02, False, width=32, experts=2, expert_train_epochs=2, expert_batch=64,
        expert_lr=0.02, iterations=60, eval_every=30, eval_students=1, eval_epochs=50, dsa="",
    ),
}  # fmt: skip
