"""The space that images are trained in by matching methods: normalised or whitened pixels, and the way back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from ddfast._types import IMAGENET, Normalization
from ddfast.data.whitening import ZCA
from ddfast.store.whitening import Whitening

CIFAR = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
SVHN = Normalization((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
MNIST = Normalization((0.1307,) * 3, (0.3081,) * 3)
FASHION_MNIST = Normalization((0.2861,) * 3, (0.3530,) * 3)
# What a source is called, in lower case, or the beginning of its name up to a separator: the constants of the programs
# of DC, DSA, DM, MTT and IDC, which take CIFAR-10's for CIFAR-100 and ImageNet's for Tiny-ImageNet
_KNOWN = (
    (re.compile(r"cifar(10|100)?"), CIFAR), (re.compile(r"svhn"), SVHN), (re.compile(r"mnist(\d+k)?"), MNIST),
    (re.compile(r"fashionmnist|fmnist"), FASHION_MNIST),
    (re.compile(r"tinyimagenet\d*|imagenet(v2|\d+k?|\d+x\d+|train|val)?|imagenette\d*|imagewoof\d*"), IMAGENET),
)  # fmt: skip
_SEPARATORS = re.compile(r"[-_ :/.]+")
_WORDNET = re.compile(r"n\d{8}")
_ROWS = 4096


def known_normalization(source_name: str, class_names: Sequence[str] = ()) -> Normalization | None:
    """The field's constants for a source of this name; ImageNet's where all classes are WordNet ids; else None.

    A name is known whole, or up to a separator (one of ``-_:/.`` or a blank): ``tiny-imagenet-200`` and
    ``cifar10:test`` are, ``tiny_cats`` and ``cifarlike`` are not.
    """
    words = _SEPARATORS.split(source_name.lower())
    for joined in accumulate(words):
        for known, constants in _KNOWN:
            if known.fullmatch(joined):
                return constants
    return IMAGENET if class_names and all(map(_WORDNET.fullmatch, class_names)) else None


def measured_normalization(images: Tensor) -> Normalization:
    """Mean and standard deviation of each channel of pictures, uint8 [N, H, W, 3], in [0, 1], to four digits.

    Sums are of whole numbers, so that every machine finds the same. A deviation is at least 1/255.

    Raises:
        ValueError: no pixels.
    """
    if not images.numel():
        raise ValueError(f"images: got shape {list(images.shape)}, expected at least one picture")
    total, square = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    for part in images.split(_ROWS):
        values = part.reshape(-1, 3).to(torch.int32)
        total, square = total + values.sum(0), square + values.square().sum(0)
    count = images.numel() // 3
    mean = total.double() / count / 255
    spread = (square.double() / count / 255**2 - mean.square()).clamp_min(0).sqrt().clamp_min(1 / 255)
    first, second = ([round(float(value), 4) for value in each] for each in (mean, spread))
    return Normalization((first[0], first[1], first[2]), (second[0], second[1], second[2]))


@dataclass(frozen=True)
class Space:
    """``normalization`` of [0, 1] pixels, or ``zca`` instead of it (to come back from there it must be a `ZCA`)."""

    normalization: Normalization
    zca: Whitening | None = None

    @classmethod
    def of(
        cls, source_name: str, images: Tensor, *, zca: bool, class_names: Sequence[str] = (), measured: bool = False
    ) -> Space:
        """Fitted to all training pictures of a set, uint8 [N, H, W, 3].

        The constants of a normalisation are those of the field where it has some (`known_normalization`), else with
        ``measured`` those of the pictures, without it ImageNet's.
        """
        normalization = known_normalization(source_name, class_names)
        if normalization is None:
            normalization = measured_normalization(images) if measured else IMAGENET
        return cls(normalization, ZCA.fit(images) if zca else None)

    def apply(self, images: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] to float32 [N, 3, H, W]."""
        if self.zca is not None:
            return self.zca.apply(images)
        mean, std = self._constants()
        return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def invert(self, x: Tensor) -> Tensor:
        """float [N, 3, H, W] to the nearest pictures, uint8 [N, H, W, 3]."""
        x = x.detach().cpu()
        if self.zca is not None:
            if not isinstance(self.zca, ZCA):
                raise TypeError("zca: got a stored whitening, which has no way back; fit one with ZCA.fit")
            pixels = self.zca.invert(x)
        else:
            mean, std = self._constants()
            pixels = x.permute(0, 2, 3, 1) * std + mean
        return (pixels * 255).round().clamp(0, 255).to(torch.uint8)

    def before(self, student: nn.Module) -> nn.Module:
        """``student`` behind a layer that takes pictures normalised by ``normalization`` instead."""
        return student if self.zca is None else nn.Sequential(_Whitening(self.normalization, self.zca), student)

    def _constants(self) -> tuple[Tensor, Tensor]:
        return torch.tensor(self.normalization.mean), torch.tensor(self.normalization.std)


class _Whitening(nn.Module):
    """Normalised pictures [n, 3, H, W] to whitened ones."""

    def __init__(self, normalization: Normalization, zca: Whitening) -> None:
        super().__init__()
        for name, value in (("scale", normalization.std), ("offset", normalization.mean)):
            self.register_buffer(name, torch.tensor(value).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("mean", zca.mean, persistent=False)
        self.register_buffer("matrix", zca.matrix, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        pixels = (x * self.get_buffer("scale") + self.get_buffer("offset")).flatten(1)
        return ((pixels - self.get_buffer("mean")) @ self.get_buffer("matrix")).view(x.shape)
