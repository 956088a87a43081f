"""What matching class by class needs: pairs of real and synthetic batches, and images moved by SGD with momentum."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ddfast.data.resident import Pictures
from ddfast.runs import seeds
from ddfast.train.adjoint.step import PRECISIONS, float32
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import DSADraw, apply_dsa, draw_dsa, parse_strategy
from ddfast.train.flat_student import fresh_theta
from ddfast.train.matching.protocol import MatchingData

# Pictures of 32 pixels whose activations are alive at a time, fewer of larger ones.
PART = {"cpu": 32}
_PART = 2048
_FEWEST = 8


def pictures_at_once(device: torch.device, size: int) -> int:
    """Pictures of ``size`` x ``size`` whose activations are alive at a time: beyond 32 px fewer, as memory goes."""
    count = PART.get(device.type, _PART)
    return max(count * 32**2 // max(size, 32) ** 2, min(count, _FEWEST))


@dataclass(frozen=True)
class ImageSettings:
    """Of every matching class by class; ``stream`` begins the names of its random streams.

    ``batch_real`` real pictures of each class (all where there are fewer) stand against its synthetic ones; ``dsa`` is
    the strategy of the siamese augmentation, empty for none.
    """

    stream: str
    iterations: int
    lr_img: float
    momentum: float = 0.5
    batch_real: int = 256
    dsa: str = ""
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_real"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        if not 0 < self.lr_img < math.inf:
            raise ValueError(f"lr_img: got {self.lr_img!r}, expected a positive number")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum: got {self.momentum!r}, expected a number in [0, 1)")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if self.dsa:
            parse_strategy(self.dsa)


@dataclass(frozen=True)
class Pair:
    """Batches of one class, augmented alike by ``draw``: ``real`` [r, c, H, W] and ``synthetic`` [s, c, H, W], whose
    last rows are the images ``own`` (int64) and whose first are frozen ones."""

    label: int
    real: Tensor
    synthetic: Tensor
    own: Tensor
    draw: DSADraw | None


class ImageMatcher:
    """Base of `Matcher` for methods that move images against the gradient of a sum over classes.

    Args:
        data: real pictures, frozen images and networks to start from.
        images: at the start, [n, c, H, W].
        labels: int64 [n]; the classes among them are those that are matched.
        settings: the method's.

    Raises:
        ValueError: shapes that do not go together, or a class without real pictures.
    """

    def __init__(self, data: MatchingData, images: Tensor, labels: Tensor, settings: ImageSettings) -> None:
        self.data, self.net, self.labels, self.settings = data, data.net, labels, settings
        self.images, self.velocity = images.clone(), torch.zeros_like(images)
        self.iteration, self.iterations = 0, settings.iterations
        self._check(images, labels)
        self.classes = [int(label) for label in labels.unique()]
        self.own, self.frozen, self.real = (
            {label: torch.nonzero(of == label)[:, 0] for label in self.classes}
            for of in (labels, data.frozen_labels, data.labels)
        )
        if missing := [label for label in self.classes if not len(self.real[label])]:
            raise ValueError(f"data: there are no real pictures of class {', '.join(map(str, missing[:10]))}, expected "
                             "at least one of each class that is matched")  # fmt: skip
        self.part = pictures_at_once(images.device, self.net.input_size)

    def advance(self) -> float:
        """See `Matcher`."""
        with torch.no_grad(), float32(self.settings.precision):
            loss, images, velocity = self._iterate(self.images, self.velocity)
        if not math.isfinite(loss) or not bool(torch.isfinite(images).all()):
            kept = "the images before it are kept. Start anew in another folder with a lower lr_img"
            raise NonFiniteLossError(f"iteration {self.iteration + 1}: the matching loss became {loss}; {kept}")
        self.images, self.velocity = images, velocity
        self.iteration += 1
        return loss

    def _iterate(self, images: Tensor, velocity: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss of one iteration, and images and velocity after it; the arguments are left as they are."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """See `Matcher`."""
        return {"images": self.images, "velocity": self.velocity, "iteration": self.iteration}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `Matcher`.

        Raises:
            ValueError: images of another shape.
        """
        if state["images"].shape != self.images.shape:
            raise ValueError(
                f"state: got images of shape {list(state['images'].shape)}, expected {list(self.images.shape)}"
            )
        self.images, self.velocity = (state[name].to(self.images, copy=True) for name in ("images", "velocity"))
        self.iteration = int(state["iteration"])

    def stored(self) -> tuple[Tensor, Tensor]:
        """See `Matcher`."""
        return self.images, self.labels

    def student_set(self) -> tuple[Tensor, Tensor]:
        """See `Matcher`."""
        return self._union(self.images), torch.cat([self.data.frozen_labels, self.labels])

    def learned_lr(self) -> float | None:
        """See `Matcher`."""
        return None

    def start(self, iteration: int) -> Tensor:
        """The network of an iteration: one of ``data.starts``, else a fresh one."""
        settings, starts = self.settings, self.data.starts
        if starts is None:
            return fresh_theta(self.net, settings.seed, f"{settings.stream}/net {iteration}").to(self.images)

        return starts[iteration % len(starts)].to(self.images)

    def real_rows(self, label: int, iteration: int, step: int = 0) -> Tensor:
        """Rows of real pictures of a class, without repetition."""
        settings, rows = self.settings, self.real[label]
        stream = f"{settings.stream}/real {label} {step}"
        order = seeds.permutation(settings.seed, stream, iteration, len(rows))
        return rows[torch.from_numpy(np.ascontiguousarray(order[: settings.batch_real])).to(rows.device)]

    def draw(self, label: int, iteration: int, step: int = 0) -> DSADraw | None:
        """The augmentation that a class's real and synthetic pictures share; None without."""
        settings = self.settings
        if not settings.dsa:
            return None
        size = (self.net.input_size, self.net.input_size)
        stream = f"{settings.stream}/siamese {label}"
        return draw_dsa(
            settings.dsa, 1, size, seed=settings.seed, epoch=iteration, step=step, siamese=True, stream=stream
        )

    def pair(self, label: int, images: Tensor, step: int = 0) -> Pair:
        """A class's batches in this iteration."""
        real = self.data.images[self.real_rows(label, self.iteration, step)].to(images.dtype)
        own, draw = self.own[label], self.draw(label, self.iteration, step)
        synthetic = torch.cat([self.data.frozen[self.frozen[label]].to(images.dtype), images[own]])
        if draw is not None:
            real, synthetic = apply_dsa(real, draw), apply_dsa(synthetic, draw)
        return Pair(label, real, synthetic, own, draw)

    def groups(self) -> Iterator[list[int]]:
        """Classes whose synthetic pictures are worked on at a time."""
        group, held = list[int](), 0
        for label in self.classes:
            count = len(self.own[label]) + len(self.frozen[label])
            if group and held + count > self.part:
                yield group
                group, held = [], 0
            group.append(label)
            held += count
        yield group

    def _union(self, images: Tensor) -> Tensor:
        return torch.cat([self.data.frozen.to(images.dtype), images])

    def _moved(self, images: Tensor, velocity: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        velocity = velocity * self.settings.momentum + gradient
        return images - self.settings.lr_img * velocity, velocity

    def _check(self, images: Tensor, labels: Tensor) -> None:
        net = self.net
        size = [net.channels, net.input_size, net.input_size]
        checked: tuple[tuple[str, Pictures, Tensor], ...] = (
            ("images", images, labels),
            ("data.images", self.data.images, self.data.labels),
            ("data.frozen", self.data.frozen, self.data.frozen_labels),
        )
        for name, x, y in checked:
            if list(x.shape[1:]) != size or len(x) != len(y):
                raise ValueError(f"{name}: got shape {list(x.shape)} with {len(y)} labels, expected [n, "
                                 f"{', '.join(map(str, size))}] with n labels")  # fmt: skip
        if not len(images):
            raise ValueError("images: got none, expected at least one")


def own_rows(pairs: list[Pair]) -> Tensor | None:
    """Rows of the pairs' own images among all their synthetic ones one after another; None where that is all."""
    found, start = [], 0
    for pair in pairs:
        end = start + len(pair.synthetic)
        found.append(torch.arange(end - len(pair.own), end))
        start = end
    rows = torch.cat(found)
    return None if len(rows) == start else rows.to(pairs[0].real.device)


def class_labels(pairs: list[Pair], sizes: list[int]) -> Tensor:
    """int64 [sum(sizes)], each pair's class for its number of pictures."""
    labels = torch.tensor([pair.label for pair in pairs])
    return labels.repeat_interleave(torch.tensor(sizes)).to(pairs[0].real.device)
