"""Plain-torch definition of class_topk."""

from __future__ import annotations

import torch
from torch import Tensor


def class_topk(
    scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """See :func:`ddfast.ops.class_topk.class_topk`; any float dtype."""
    classes, k = best_scores.shape
    check_labels(labels, classes)
    outside = (labels < 0) | (labels >= classes)
    slots = torch.arange(classes, device=scores.device).repeat_interleave(k)
    label = torch.cat([slots, labels.masked_fill(outside, classes)])
    score = torch.cat([best_scores.reshape(-1), scores]) + 0.0  # -0.0 becomes 0.0: the two are the same score
    key = torch.cat([best_keys.reshape(-1), keys])
    # three stable sorts, least significant first: by key, by score (NaN last), by class
    order = torch.argsort(key, stable=True)
    order = order[torch.argsort(score[order], stable=True)]
    order = order[torch.argsort(label[order], stable=True)]
    starts = torch.searchsorted(label[order], torch.arange(classes, device=scores.device))
    kept = order[starts[:, None] + torch.arange(k, device=scores.device)]
    return score[kept], key[kept]


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError for a label outside the table; CUDA labels are not read back for it."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"labels: got {wrong}, expected 0 <= label < {classes} (the rows of best_scores)")
