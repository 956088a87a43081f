"""The batches of a training, made again from a few numbers: which samples, which views, and the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ddfast._outside import as_text
from ddfast.store import set_fingerprint
from ddfast.train.views import ViewConfig, Views, draw_views, epoch_order

ORDERS = ("counter", "random_sampler")


@dataclass(frozen=True)
class Replay:
    """What decides the batches of every epoch of a training on ``count`` pictures of ``image_size`` pixels.

    ``order`` of the samples: "counter" (`epoch_order`), or "random_sampler", that of ``DataLoader(sampler=
    RandomSampler(set, generator=torch.Generator().manual_seed(seed)))`` in each epoch, which FKD's programs expect.

    Raises:
        ValueError: a number out of range or an unknown order.
    """

    view: ViewConfig
    image_size: tuple[int, int]
    count: int
    seed: int = 0
    batch_size: int = 100
    order: str = "counter"

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed: got {self.seed!r}, expected 0 or more")
        if self.order not in ORDERS:
            raise ValueError(f"order: got {self.order!r}, expected one of {', '.join(ORDERS)}")

    @property
    def steps(self) -> int:
        """Batches an epoch; the last one may be smaller."""
        return -(-self.count // self.batch_size)

    def index(self, epoch: int, step: int) -> Tensor:
        """Sample numbers int64 [n] of one batch."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step: got {step}, expected 0 .. {self.steps - 1}")
        order = _order(self.order, self.seed, epoch, self.count)
        return order[step * self.batch_size : (step + 1) * self.batch_size]

    def views(self, epoch: int, step: int) -> Views:
        """Draws of one batch, on the CPU."""
        return draw_views(self.view, self.image_size, self.seed, epoch, step, self.index(epoch, step))

    def fingerprint(self, images: Tensor, labels: Tensor) -> dict[str, Any]:
        """What a label store's fingerprint must say for these batches of this set: for `LabelStore.check`."""
        return {
            "set": set_fingerprint(images, labels),
            "image_size": list(self.image_size),
            "view": view_to_json(self.view),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "order": self.order,
        }

    @classmethod
    def from_fingerprint(cls, fingerprint: Mapping[str, Any], count: int) -> Replay:
        """The batches that a store's labels were made for.

        Raises:
            ValueError: the labels are of plain images, or the entries are damaged.
        """
        if fingerprint.get("view") is None:
            raise ValueError("fingerprint: these labels are of the plain images, one each, and belong to no views")
        try:
            height, width = fingerprint["image_size"]
            return cls(
                view_from_json(fingerprint["view"]), (int(height), int(width)), count, int(fingerprint["seed"]),
                int(fingerprint["batch_size"]), str(fingerprint["order"]),
            )  # fmt: skip
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"fingerprint: got {as_text(dict(fingerprint), 300)}, which lacks what replaying needs"
            ) from error


def view_to_json(view: ViewConfig) -> dict[str, Any]:
    """A view's settings as JSON values."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(view).items()}


def view_from_json(value: Mapping[str, Any]) -> ViewConfig:
    """The inverse of `view_to_json`.

    Raises:
        ValueError, TypeError: not a view's settings.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"view: got {as_text(value)}, expected a mapping of a view's settings")
    settings: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
    return ViewConfig(**settings)


@lru_cache(maxsize=4)
def _order(kind: str, seed: int, epoch: int, count: int) -> Tensor:
    if kind == "counter":
        return epoch_order(seed, epoch, count)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(2 * epoch):  # the sampler draws a second permutation an epoch, for the remainder it does not have
        torch.randperm(count, generator=generator)
    return torch.randperm(count, generator=generator)
