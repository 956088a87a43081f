"""IDC's settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ddfast.data.space import Space
from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import option
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.nets.resnet_ap import FlatResNetAP
from ddfast.store.formation import KINDS, Formation
from ddfast.train.dsa import parse_strategy
from ddfast.train.idc_augment import MATCHING, NET, STUDENT
from ddfast.train.matching.idc import METRICS, IDCSettings
from ddfast.train.mixed import MixedRecipe, train_mixed

NETS = ("convnet", "resnetap10")
INITS = ("mix", "real", "noise")


@dataclass(frozen=True)
class IDCConfig(MatchingConfig):
    """Settings that decide what is distilled (IDC: Kim et al., ICML 2022, arXiv 2205.14959).

    An iteration is a pass over the classes, whose real pictures' and images' gradients are matched, and an update of
    the network on ``n_data`` real pictures; a new network begins every ``inner_loop`` iterations.
    """

    architecture: str = option("convnet", "the network: convnet or resnetap10")
    formation: int = option(2, "factor of the decoding, into formation x formation images each; 1 is IDC-I")
    decode: str = option("single", "decoding: single, multi (all factors up to it) or bound (at most batch_syn)")
    iterations: int = option(200_000, "passes over the classes")
    inner_loop: int = option(100, "passes with one network")
    metric: str = option("mse", "distance of gradients: mse (squares, summed) or l1")
    lr_img: float = option(5e-3, "learning rate of the images at 10 per class; scaled by ipc and the area")
    lr_img_size: int = option(32, "side at which lr_img is meant")
    batch_real: int = option(64, "real pictures of a class in a pass")
    batch_syn: int = option(128, "decoded images of a class in a pass, at most")
    n_data: int = option(2000, "pictures of an update of the network")
    early: int = option(0, "epochs on real pictures that a network begins with")
    lr_net: float = option(0.01, "learning rate of the networks, in the students of the tests too")
    weight_decay: float = option(5e-4, "of the networks")
    batch_net: int = option(64, "batch of the networks")
    cutmix: float = option(0.5, "share of the networks' batches with CutMix")
    dsa: str = option(MATCHING, "augmentations of the matching, in IDC's order; empty for none")
    dsa_net: str = option(NET, "those of the networks; empty for none")
    dsa_student: str = option(STUDENT, "those of the students of the tests; empty for none")
    init: str = option("mix", "the images at the start: mix (each tile another picture), real or noise")
    eval_every: int = option(20_000, "iterations between two tests")

    counts: ClassVar[tuple[str, ...]] = (
        *MatchingConfig.counts, "formation", "inner_loop", "lr_img_size", "batch_real", "batch_syn", "batch_net",
    )  # fmt: skip
    rates: ClassVar[tuple[str, ...]] = (*MatchingConfig.rates, "lr_net")
    choices: ClassVar[dict[str, tuple[str, ...]]] = {
        **MatchingConfig.choices, "init": INITS, "architecture": NETS, "decode": KINDS, "metric": METRICS,
    }  # fmt: skip
    keeps_floats: ClassVar[bool] = False  # bytes are what IDC saves

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_data", "early", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 0 or more")
        for name in ("dsa_net", "dsa_student"):
            if getattr(self, name):
                parse_strategy(getattr(self, name))
        if not 0 <= self.cutmix <= 1:
            raise ValueError(f"cutmix: got {self.cutmix!r}, expected a share in [0, 1]")
        if self.zca:
            raise ValueError("zca: got True, but IDC's images are pixels in [0, 1]; expected False")
        if self.formation > self.size:
            raise ValueError(f"formation: got {self.formation} at size={self.size}, expected a tile of 1 pixel or more")
        if self.architecture != "convnet" and self.norm == "batch":
            raise ValueError(f"norm: got 'batch' for {self.architecture}, expected instance, group or none")

    @property
    def decoding(self) -> Formation:
        """How images are decoded in matching."""
        return Formation(self.formation, self.decode, self.batch_syn)

    def net(self, classes: int) -> FlatNet:
        """See `MatchingConfig`."""
        if self.architecture == "convnet":
            return FlatConvNet(classes, self.size, depth=self.depth, width=self.width, norm=self.norm)
        return FlatResNetAP(classes, self.size, norm=self.norm)

    def settings(self, stage: int = 0) -> IDCSettings:
        """Of the loop."""
        recipe = MixedRecipe(
            self.lr_net, weight_decay=self.weight_decay, batch_size=self.batch_net, augment=self.dsa_net,
            cutmix=self.cutmix,
        )  # fmt: skip
        return IDCSettings(
            self.iterations, self.inner_loop, self.metric,
            self.lr_img * self.ipc / 10 * (self.size / self.lr_img_size) ** 2, self.momentum, self.dsa,
            self.batch_real, self.batch_syn, self.n_data, self.early, recipe, self.precision, self.seed,
            f"idc/stage {stage}" if stage else "idc",
        )  # fmt: skip

    def pixels(self, space: Space, stored: Tensor) -> Tensor:
        """See `MatchingConfig`."""
        return (stored.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def train_student(
        self, net: FlatNet, theta: Tensor, images: Tensor, targets: Tensor, *, lr: float | None, epochs: int,
        stream: str | Sequence[str], momentum: Tensor | None = None, keep_momentum: bool = False,
        on_epoch: Callable[[int], None] | None = None,
    ) -> Tensor:  # fmt: skip
        """See `MatchingConfig`; the momentum always goes on where the rate drops."""
        recipe = MixedRecipe(
            self.lr_net if lr is None else lr, weight_decay=self.weight_decay, batch_size=self.batch_net,
            augment=self.dsa_student, cutmix=self.cutmix,
        )  # fmt: skip
        streams = [stream] if isinstance(stream, str) else list(stream)
        thetas = theta.reshape(len(streams), -1)
        velocities = torch.zeros_like(thetas) if momentum is None else momentum.view(len(streams), -1)
        common: Any = {"seed": self.seed, "on_epoch": on_epoch}
        found = [
            train_mixed(net, each, images, targets, recipe, epochs, stream=name, momentum=velocity, **common)
            for each, name, velocity in zip(thetas, streams, velocities, strict=True)
        ]
        return torch.stack(found).reshape(theta.shape)

    def recipe(self, lr: float | None) -> dict[str, Any]:
        """See `MatchingConfig`."""
        return {
            "protocol": "idc", "lr": self.lr_net if lr is None else lr, "momentum": 0.9,
            "weight_decay": self.weight_decay, "augment": self.dsa_student, "cutmix": self.cutmix,
        }  # fmt: skip
