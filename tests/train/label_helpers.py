"""A small set and teachers for the tests of soft labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ddfast._types import Normalization
from ddfast.nets.observers import Observer, load_observer
from ddfast.store import DistilledSet
from ddfast.train.views import ViewConfig

CLASSES = ("a", "b", "c")
VIEW = ViewConfig((12, 12), factor=2, scale=(0.5, 1.0), flip=True, shift=1, mix="cutmix")


class Pooled(nn.Module):
    """A tiny classifier that sees where things are."""

    def __init__(self, seed: int, classes: int = len(CLASSES)) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Linear(3 * 3 * 3, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(x, 3).flatten(1)) * 3  # type: ignore[no-any-return]


def teacher(seed: int = 1, classes: int = len(CLASSES), norm: Normalization | None = None) -> Observer:
    return load_observer(Pooled(seed, classes), num_classes=classes, input_size=12, normalization=norm)


def tiny_set(count: int = 10, side: int = 12, seed: int = 0) -> DistilledSet:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator)
    return DistilledSet(images, torch.arange(count) % len(CLASSES), CLASSES)
