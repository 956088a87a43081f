"""What a training costs: floating-point operations counted on shapes alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def forward_flops(model: nn.Module, size: int, channels: int = 3) -> int:
    """Floating-point operations of one forward of one picture: two for each multiply-add of convolutions and products.

    Counted by `torch.utils.flop_counter.FlopCounterMode` on fake tensors: nothing is computed. Norms, activations and
    pooling are not counted, as is usual.

    Args:
        model: takes [1, channels, size, size].
        size: side of the picture in pixels.
        channels: of the picture.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    mode = FakeTensorMode()
    shadow = copy.deepcopy(model).cpu().eval()
    state: dict[str, Any] = {k: mode.from_tensor(v) for k, v in shadow.state_dict(keep_vars=True).items()}
    counter: Any = FlopCounterMode(display=False)
    with mode, counter, torch.no_grad():
        torch.func.functional_call(shadow, state, (torch.zeros(1, channels, size, size),))
    return int(counter.get_total_flops())


def training_flops(student: nn.Module, size: int, views: int, teacher: nn.Module | None = None) -> dict[str, int]:
    """Cost of a training.

    Args:
        student: the network.
        size: side of its pictures in pixels.
        views: pictures seen in all, images x epochs.
        teacher: if it labels every view, its forward counts too.

    Returns:
        ``forward`` (one picture), ``student`` (views x 3 x forward: the backward counts as two forwards), ``teacher``
        (views x its forward), ``total``.
    """
    forward = forward_flops(student, size)
    labelling = 0 if teacher is None else views * forward_flops(teacher, size)
    return {
        "forward": forward,
        "student": 3 * forward * views,
        "teacher": labelling,
        "total": 3 * forward * views + labelling,
    }


def guarded(count: Callable[[], dict[str, int]]) -> dict[str, int] | None:
    """``count()``, or None for a network that cannot run on fake tensors."""
    try:
        return count()
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None
