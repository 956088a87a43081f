"""CutMix of whole batches of model inputs (Yun et al., ICCV 2019, arXiv 1905.04899), with a probability a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ddfast.runs import seeds
from ddfast.train.views import ViewConfig, draw_views


@dataclass(frozen=True)
class CutMixDraw:
    """``partner`` int64 [n] (place in the batch), ``box`` (top, left, height, width), own ``share`` of the pixels."""

    partner: Tensor
    box: tuple[int, int, int, int]
    share: float


def draw_cutmix(
    count: int, size: tuple[int, int], *, seed: int, epoch: int = 0, step: int = 0, stream: str = "cutmix",
    probability: float = 1.0, alpha: float = 1.0,
) -> CutMixDraw | None:  # fmt: skip
    """Draw for one batch, a function of (stream, seed, epoch, step) alone; None where the batch stays as it is.

    Box, partners and share are those of `ddfast.train.views.draw_views`: sides ``int(side * sqrt(1 - Beta(alpha,
    alpha)))`` around a uniform centre, clipped at the border.

    Args:
        count: pictures n.
        size: (height, width).
        seed, epoch, step: counters, from 0.
        stream: name of the random stream.
        probability: that a batch is mixed, in [0, 1].
        alpha: of the Beta distribution.

    Raises:
        ValueError: a probability outside [0, 1], or alpha not positive.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"cutmix: got probability {probability!r}, expected a number in [0, 1]")
    coin = float(seeds.uniform(seeds.counter_bits(seed, f"{stream}/coin", epoch, step))[0])
    if coin >= probability:
        return None
    own = seeds.stream_key(seed, stream)[0]
    views = draw_views(ViewConfig(size, mix="cutmix", alpha=alpha), size, own, epoch, step, np.arange(count))
    top, left, height, width = views.mix_box.tolist()
    return CutMixDraw(views.partner, (top, left, height, width), views.share)


def apply_cutmix(images: Tensor, draw: CutMixDraw) -> Tensor:
    """The batch [n, c, H, W] with each picture's box taken from its partner."""
    top, left, height, width = draw.box
    rows, columns = slice(top, top + height), slice(left, left + width)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[:, :, rows, columns][draw.partner.to(images.device)]
    return mixed


def mixed_labels(labels: Tensor, classes: int, draw: CutMixDraw, dtype: torch.dtype = torch.float32) -> Tensor:
    """Probabilities [n, classes]: the own class by ``share``, the partner's by the rest. ``labels`` is int64 [n]."""
    own = F.one_hot(labels, classes).to(dtype)
    return draw.share * own + (1 - draw.share) * own[draw.partner.to(labels.device)]
