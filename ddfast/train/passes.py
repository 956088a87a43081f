"""Passes over one set of pictures for several networks at once, each with an order and augmentations of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ddfast.data.resident import Pictures
from ddfast.runs import seeds
from ddfast.train.dsa import apply_dsa, draw_dsa


class PassKey(NamedTuple):
    """What decides a network's next pass: streams of its order and augmentations, and how many passes came before."""

    order: str
    dsa: str
    epoch: int


class PassBatch(NamedTuple):
    """``rows`` int64 [K, b] of the set, and for each network pictures [b, c, H, W] and labels."""

    rows: Tensor
    x: list[Tensor]
    y: list[Tensor]


def batches(
    images: Pictures, labels: Tensor, keys: Sequence[PassKey], batch_size: int, strategy: str, seed: int
) -> Iterator[PassBatch]:
    """One pass for each of K networks, side by side; a network's batches depend on its key alone.

    Args:
        images: normalised pictures [N, c, H, W].
        labels: [N] or [N, classes].
        keys: one a network.
        batch_size: pictures of a network's batch; the last one holds what is left.
        strategy: augmentations (`draw_dsa`) of which each network draws one a batch; "" for none.
        seed: of the draws.
    """
    orders = [torch.from_numpy(seeds.permutation(seed, key.order, key.epoch, len(images))) for key in keys]
    size = (images.shape[2], images.shape[3])
    for place, index in enumerate(torch.stack(orders).to(images.device).split(batch_size, 1)):
        x = [images[rows] for rows in index]
        if strategy:
            for k, key in enumerate(keys):
                draw = draw_dsa(strategy, len(x[k]), size, seed=seed, epoch=key.epoch, step=place, stream=key.dsa)
                x[k] = apply_dsa(x[k], draw)
        yield PassBatch(index, x, [labels[rows] for rows in index])
