"""Pixels of whole batches on the device that holds the set: plain ones for evaluation, augmented views for training."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast._types import Normalization
from ddfast.ops import augment_batch
from ddfast.train.views import ViewConfig, Views


def normalize(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] in channels-last order: (x / 255 - mean) / std."""
    mean = torch.tensor(normalization.mean, device=images.device) * 255
    std = torch.tensor(normalization.std, device=images.device) * 255
    return ((images.float() - mean) / std).permute(0, 3, 1, 2)


def render(
    images: Tensor,
    views: Views,
    config: ViewConfig,
    normalization: Normalization,
    *,
    dtype: torch.dtype = torch.float32,
    threads: int | None = None,
) -> Tensor:
    """Pixels of drawn views.

    Args:
        images: uint8 [N, H, W, 3], contiguous, on any device.
        views: draws of one batch, from ``ddfast.train.views.draw_views``.
        config: what they were drawn for.
        normalization: of the [0, 1] pixels.
        dtype: float32, bfloat16, float16 or float64.
        threads: CPU threads; torch's number when None.

    Returns:
        [n, 3, h, w] in channels-last order, on the device of the images. The draws are not checked.
    """
    draws = views.to(images.device)
    return augment_batch(
        images, draws.index, draws.columns, draws.rows, draws.boxes, draws.flip, draws.shift, draws.partner,
        draws.mix_box, draws.share, size=config.size, mean=normalization.mean, std=normalization.std,
        mixup=config.mix == "mixup", dtype=dtype, threads=threads or torch.get_num_threads(), validate=False,
    )  # fmt: skip
