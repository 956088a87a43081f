"""Settings of the coreset methods, and presets by data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ddfast.methods._options import option
from ddfast.methods._output import FORMATS
from ddfast.train.dsa import parse_strategy

SELECTIONS = ("random", "herding", "k-center", "forgetting")
NORMALIZE = ("none", "l2")


@dataclass(frozen=True)
class CoresetConfig:
    """Settings that decide which real pictures are taken; each class is chosen from by itself.

    ``random``: a seeded permutation; more images per class keep the first ones. ``herding`` (Welling, ICML 2009, in the
    greedy form of iCaRL, Rebuffi et al., CVPR 2017): pick t is the picture that brings the mean feature of the t picks
    nearest to the mean of the class. ``k-center`` (Gonzalez 1985; Sener & Savarese, ICLR 2018): the first pick is the
    picture nearest to the mean of its class, each next one the picture farthest from all picks. ``forgetting`` (Toneva
    et al., ICLR 2019): the pictures that a training forgets most often, those it never learns before all; counted in
    a training of ConvNets on all pictures at ``size``, or read from ``scores``.

    Features are what the last linear layer of the observer reads, from the largest centred square of a picture;
    distances are Euclidean, in float64. Pictures are taken once, and of equals the first.
    """

    selection: str = option("herding", "random, herding, k-center or forgetting")
    ipc: int = option(10, "pictures per class")
    size: int = option(32, "side of the pictures in pixels")
    observer: str | None = option(None, "whose features: torchvision/timm/ddfast name, checkpoint file, or train:NAME")
    weights: str | None = option(None, "file with the observer's weights (default: the published ones)")
    random_weights: bool = option(False, "untrained observer")
    input_size: int | None = option(None, "side of the observer's input (default: size)")
    normalize: str = option("none", "features as they are (none), or each divided by its length (l2), as iCaRL does")
    scores: str | None = option(None, "forgetting: file of scores of all pictures at this size (default: count them)")
    forgetting_networks: int = option(1, "forgetting: networks to count in, of which the mean is taken")
    forgetting_epochs: int = option(50, "forgetting: epochs of each")
    forgetting_width: int = option(128, "forgetting: their channels")
    dsa: str = option("flip_crop", "forgetting: augmentations of their training, one drawn a batch; empty for none")
    seed: int = option(0, "seed of the random choice, and of an observer that is trained first")
    format: str = option("png", "png (lossless files), folder (JPEG files) or safetensors")
    jpeg_quality: int = option(75, "JPEG quality of the folder format")
    preset: str | None = option(None, "name of the preset these settings came from", cli=False)

    # fields with a fixed choice of values
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        "selection": SELECTIONS, "normalize": NORMALIZE, "format": FORMATS,
    }  # fmt: skip

    def __post_init__(self) -> None:
        for name in ("ipc", "size", "input_size", "forgetting_networks", "forgetting_epochs", "forgetting_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: got {value}, expected 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed}, expected 0 or more")
        for name, allowed in self.choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality: got {self.jpeg_quality}, expected 1 to 95 (format png is lossless)")
        if self.dsa:
            parse_strategy(self.dsa)
        if self.selection != "forgetting" and self.scores is not None:
            raise ValueError(f"scores: got {self.scores}, but selection {self.selection} has no use for them")

    @property
    def by_features(self) -> bool:
        """Whether the choice looks at an observer's features."""
        return self.selection in ("herding", "k-center")


PRESETS: dict[str, dict[str, Any]] = {
    "cifar10": {"size": 32, "observer": "train:conv3"},
    "cifar100": {"size": 32, "observer": "train:conv3"},
    "tinyimagenet": {"size": 64, "observer": "train:conv4"},
    "imagenet-1k": {"size": 224, "observer": "resnet18", "format": "folder"},
    "smoke": {
        "size": 32,
        "ipc": 5,
        "observer": "train:conv3",
        "forgetting_epochs": 5,
        "forgetting_width": 32,
        "dsa": "",
    },
}
