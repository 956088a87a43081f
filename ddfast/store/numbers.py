"""Storage of tensors of weights: float32, float16, or int8 with one scale a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

STORAGES = ("fp32", "fp16", "int8")
SCALE = ".scale"


def check_storage(storage: str) -> str:
    """``storage``, or ValueError where it is none of ``STORAGES``."""
    if storage not in STORAGES:
        raise ValueError(f"storage: got {storage!r}, expected one of {', '.join(STORAGES)}")
    return storage


def pack(name: str, value: Tensor, storage: str, *, over: Sequence[int] | None = None) -> dict[str, Tensor]:
    """A tensor as it is stored, by name (CPU).

    fp32 and fp16 cast. int8 stores round(x / s) with s = max |x| / 127 of each row, so that a number errs by at most
    max |x| / 254, and s as float32 under ``<name>.scale``, where the axes of a row have length 1; tensors of one axis
    (biases) stay float32.

    Args:
        name: of the tensor.
        value: float tensor.
        storage: "fp32", "fp16" or "int8".
        over: the axes of a row; None for all but the first.

    Raises:
        ValueError: another storage, a number that is not finite or too large for float16.
    """
    check_storage(storage)
    plain = value.detach().cpu().float().contiguous()
    if not bool(torch.isfinite(plain).all()):
        raise ValueError(f"{name}: holds NaN or infinity; the run that made it has diverged, lower its learning rates")
    if storage == "fp16":
        half = plain.half()
        if not bool(torch.isfinite(half).all()):
            raise ValueError(f"{name}: got up to {plain.abs().max():.4g}, float16 ends at 65504; store fp32")
        return {name: half}
    if storage == "fp32" or plain.ndim == 1:
        return {name: plain.clone()}
    scale = plain.abs().amax(_axes(plain.ndim, over), keepdim=True) / 127
    whole = torch.where(scale > 0, plain / scale, 0).round().clamp(-127, 127)
    return {name: whole.to(torch.int8), name + SCALE: scale}


def unpack(name: str, tensors: Mapping[str, Tensor], storage: str, *, over: Sequence[int] | None = None) -> Tensor:
    """The float32 tensor that `pack` stored.

    Raises:
        ValueError: it or its scales are missing, or of another dtype or shape.
    """
    value = _found(name, tensors)
    kind = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.int8}[check_storage(storage)]
    if storage == "int8" and value.ndim == 1:
        kind = torch.float32
    if value.dtype != kind:
        raise ValueError(f"{name}: got {value.dtype}, expected {kind} for storage {storage!r}")
    if kind != torch.int8:
        return value.float()
    scale = _found(name + SCALE, tensors)
    wanted = _scale_shape(tuple(value.shape), over)
    if tuple(scale.shape) != wanted or scale.dtype != torch.float32:
        raise ValueError(f"{name}{SCALE}: got {scale.dtype} {list(scale.shape)}, expected torch.float32 {list(wanted)}")
    return value.float() * scale


def packed_bytes(shape: tuple[int, ...], storage: str, *, over: Sequence[int] | None = None) -> int:
    """Bytes of what `pack` gives for a tensor of ``shape``."""
    numbers = math.prod(shape)
    if check_storage(storage) == "fp16":
        return 2 * numbers
    if storage == "fp32" or len(shape) == 1:
        return 4 * numbers
    return numbers + 4 * math.prod(_scale_shape(shape, over))


def _axes(ndim: int, over: Sequence[int] | None) -> tuple[int, ...]:
    return tuple(range(1, ndim)) if over is None else tuple(over)


def _scale_shape(shape: tuple[int, ...], over: Sequence[int] | None) -> tuple[int, ...]:
    axes = _axes(len(shape), over)
    return tuple(1 if axis in axes else length for axis, length in enumerate(shape))


def _found(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise ValueError(f"{name}: missing from the set's tensors; copy the set anew or make it again")
    return tensors[name]
