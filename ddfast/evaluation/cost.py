"""What a training costs: floating-point operations counted on shapes alone, and the machine that seconds are of."""

from __future__ import annotations

import copy
import platform
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddfast.nets.decoder import DecoderConfig


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


def training_flops(
    student: nn.Module, size: int, views: int, teacher: nn.Module | None = None, *, decoding: int = 0
) -> dict[str, int]:
    """Cost of a training.

    Args:
        student: the network.
        size: side of its pictures in pixels.
        views: pictures seen in all, images x epochs.
        teacher: if it labels every view, its forward counts too.
        decoding: of the pictures it is trained on, where they are decoded (see `decoding_flops`).

    Returns:
        ``forward`` (one picture), ``student`` (views x 3 x forward: the backward counts as two forwards), ``teacher``
        (views x its forward), ``decoding``, ``total``.
    """
    forward = forward_flops(student, size)
    labelling = 0 if teacher is None else views * forward_flops(teacher, size)
    return {
        "forward": forward,
        "student": 3 * forward * views,
        "teacher": labelling,
        "decoding": decoding,
        "total": 3 * forward * views + labelling + decoding,
    }


def decoding_flops(manifest: Mapping[str, Any], draws: float) -> int:
    """Cost of decoding a distributional set's pictures: two for each multiply-add of the decoders, forward only.

    Args:
        manifest: of the set; 0 for one without ``distribution``.
        draws: how often a picture of every prior is decoded, the means included.

    Raises:
        ValueError: a decoder that is not described.
    """
    blocks = (manifest.get("distribution") or {}).get("blocks", ())
    macs = sum(DecoderConfig.from_json(block["decoder"]).macs * int(block["rows"]) for block in blocks)
    return round(2 * macs * draws)


@lru_cache(maxsize=4)
def machine_name(device: str) -> str:
    """The GPU's name, or the processor's; what seconds on it are seconds of."""
    if device.startswith("cuda") and torch.cuda.is_available():
        return torch.cuda.get_device_name(torch.device(device))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def guarded(count: Callable[[], dict[str, int]]) -> dict[str, int] | None:
    """``count()``, or None for a network that cannot run on fake tensors."""
    try:
        return count()
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return None
