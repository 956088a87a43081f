"""Plain-torch definition of crop_score."""

from __future__ import annotations

import torch
from torch import Tensor


def crop_score(logits: Tensor, labels: Tensor, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`ddfast.ops.crop_score.crop_score`; float64 logits are computed and returned in float64."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    check_labels(labels, z.shape[-1])
    index = labels[:, None, None].expand(-1, z.shape[1], 1)
    loss = literal_loss(z, index) if literal else exact_loss(z, index)
    best_loss, best_index = first_smallest(loss)
    return loss, best_loss, best_index


def check_labels(labels: Tensor, classes: int) -> None:
    """Raises ValueError for a label outside the classes; CUDA labels are not read back for it."""
    if labels.device.type != "cpu" or not labels.numel():
        return
    low, high = (int(v) for v in torch.aminmax(labels))
    if low < 0 or high >= classes:
        wrong = low if low < 0 else high
        raise ValueError(f"labels: got {wrong}, expected 0 <= label < {classes} (the number of classes in logits)")


def exact_loss(z: Tensor, index: Tensor) -> Tensor:
    own = z.gather(2, index).squeeze(2)
    rivals = z.scatter(2, index, float("-inf"))
    margin = torch.logsumexp(rivals, 2) - own
    # softplus without F.softplus's threshold, which drops the tail of float64 values
    return margin.clamp(min=0) + torch.log1p(torch.exp(-margin.abs()))


def literal_loss(z: Tensor, index: Tensor) -> Tensor:
    return -torch.log(torch.softmax(z, 2).gather(2, index).squeeze(2))


def first_smallest(loss: Tensor) -> tuple[Tensor, Tensor]:
    """Minimum over the last axis and its lowest index; NaN counts as larger than everything, +inf too."""
    nan = torch.isnan(loss)
    plain = loss.masked_fill(nan, float("inf"))
    candidates = (plain == plain.amin(1, keepdim=True)) & ~nan
    position = torch.arange(loss.shape[1], device=loss.device).expand_as(loss)
    first = position.masked_fill(~candidates, loss.shape[1]).amin(1)
    best = first.masked_fill(first == loss.shape[1], 0)  # a row of NaN gives index 0
    return loss.gather(1, best[:, None]).squeeze(1), best
