"""What the settings of all matching methods (MTT, DC, DSA, DM, IDC) have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor

from ddfast.data.space import Space
from ddfast.methods._options import option
from ddfast.nets.convnet import NORMS
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.train.adjoint.step import PRECISIONS
from ddfast.train.dsa import STRATEGY, parse_strategy
from ddfast.train.flat_student import FlatRecipe, train_flat

INITS = ("real", "noise")
TESTS = ("split", "none")
STUDENT_LR = 0.01


@dataclass(frozen=True)
class MatchingConfig:
    """Settings of every matching method; a method's own class inherits from this one and adds its own.

    The methods below the fields say how its images become pixels and how its students are trained; a method that does
    it otherwise overrides them.
    """

    ipc: int = option(1, "distilled images per class")
    size: int = option(32, "side of the images in pixels")
    depth: int = option(3, "blocks of the ConvNet")
    width: int = option(128, "channels of the ConvNet")
    norm: str = option("instance", "its norm: instance, batch, group or none")
    zca: bool = option(False, "whiten the pictures first")
    iterations: int = option(1000, "outer iterations")
    lr_img: float = option(1.0, "learning rate of the images")
    momentum: float = option(0.5, "of the images")
    dsa: str = option(STRATEGY, "augmentations, one drawn a batch; empty for none")
    init: str = option("real", "the images at the start: real or noise")
    precision: str = option("fp32", "of convolutions: fp32, tf32 (GPUs) or bf16")
    test: str = option("split", "tests on the way: split (on held-out training pictures) or none")
    holdout: float = option(0.1, "share of the training pictures held out for test=split")
    eval_every: int = option(100, "iterations between two tests")
    eval_students: int = option(2, "students of each test")
    eval_epochs: int = option(1000, "epochs of each")
    seed: int = option(0, "of every draw")
    preset: str | None = option(None, "the preset's name", cli=False)

    # fields that must be 1 or more, and those that must be positive; subclasses extend them
    counts: ClassVar[tuple[str, ...]] = ("ipc", "iterations", "eval_every", "eval_students", "eval_epochs")
    rates: ClassVar[tuple[str, ...]] = ("lr_img",)
    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "init": INITS, "test": TESTS, "precision": PRECISIONS, "norm": NORMS,
    }  # fmt: skip
    # fields that do not change what comes out
    indifferent: ClassVar[tuple[str, ...]] = ("preset",)
    # classes that a source must have: of one alone there is nothing to learn
    fewest_classes: ClassVar[int] = 2
    # whether the images as they were trained are kept beside their pixels
    keeps_floats: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def keeps_best(self) -> bool:
        """Whether the images that tested best on held-out pictures are the result; else the last ones are."""
        return False

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON values."""
        return {name: value for name, value in asdict(self).items() if name not in self.indifferent}

    def net(self, classes: int) -> FlatNet:
        """The architecture that is matched on."""
        return FlatConvNet(classes, self.size, depth=self.depth, width=self.width, norm=self.norm)

    def fitting_net(self, classes: int) -> FlatNet:
        """The same, for refusing before there is a run folder what does not fit.

        Raises:
            ValueError: the network does not take pictures of this size; names the setting.
        """
        try:
            return self.net(classes)
        except ValueError as error:
            said = str(error)
        if said.startswith("input_size:"):
            said = said.removeprefix("input_") + (", or a smaller depth" if "depth" in said else "")
        raise ValueError(said)

    def pixels(self, space: Space, stored: Tensor) -> Tensor:
        """A matcher's ``stored`` images as pictures, uint8 [n, H, W, 3]."""
        return space.invert(stored)

    def train_student(
        self, net: FlatNet, theta: Tensor, images: Tensor, targets: Tensor, *, lr: float | None, epochs: int,
        stream: str | Sequence[str], momentum: Tensor | None = None, keep_momentum: bool = False,
        on_epoch: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """A student of ``student_set()`` trained from ``theta``, in tests and between PDD's stages.

        Args:
            net, theta: the architecture and where to start, float32 [P], or several networks [K, P].
            images, targets: of `Matcher.student_set`.
            lr: the learned rate, None for the recipe's own.
            epochs: how long.
            stream: of the draws, with the config's seed; for several networks one each.
            momentum: buffer of theta's shape to go on with and leave updated.
            keep_momentum: it goes on where the rate drops, as between PDD's stages, whatever the recipe says.
            on_epoch: called after every epoch with the number of those done (of each network in turn, where they are
                not trained at once).
        """
        recipe = FlatRecipe(epochs, STUDENT_LR if lr is None else lr, dsa=self.dsa, reset_momentum=not keep_momentum)
        return train_flat(
            net, theta, images, targets, recipe, seed=self.seed, stream=stream, momentum=momentum, on_epoch=on_epoch
        )

    def recipe(self, lr: float | None) -> dict[str, Any]:
        """How `train_student` trains, for the manifest."""
        rate = STUDENT_LR if lr is None else lr
        return {"protocol": "dsa", "lr": rate, "momentum": 0.9, "weight_decay": 5e-4, "dsa": self.dsa}


def check_ranges(config: Any) -> None:
    """Refuses what is out of range in a config class: in its ``counts``, ``rates`` and ``choices``, and in the fields
    ``momentum``, ``dsa`` and ``holdout``.

    Raises:
        ValueError: names the field, its value and what was expected.
    """
    for name in config.counts:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: got {getattr(config, name)!r}, expected 1 or more")
    for name in config.rates:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name}: got {getattr(config, name)!r}, expected a positive number")
    for name, known in config.choices.items():
        if getattr(config, name) not in known:
            raise ValueError(f"{name}: got {getattr(config, name)!r}, expected one of {', '.join(known)}")
    if not 0 <= config.momentum < 1:
        raise ValueError(f"momentum: got {config.momentum!r}, expected a number in [0, 1)")
    if config.dsa:
        parse_strategy(config.dsa)
    if not 0 < config.holdout < 1:
        raise ValueError(f"holdout: got {config.holdout!r}, expected a share between 0 and 1")
