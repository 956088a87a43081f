"""Argument checks shared by the ops' public functions: every message names argument, value and expectation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def check_tensor(
    name: str, value: object, dtype: torch.dtype | Sequence[torch.dtype], shape: Sequence[int | None]
) -> None:
    """Raises TypeError or ValueError unless ``value`` is a tensor of this dtype and shape (None = any length)."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: got {type(value).__name__}, expected a torch.Tensor")
    allowed = (dtype,) if isinstance(dtype, torch.dtype) else tuple(dtype)
    if value.dtype not in allowed:
        raise TypeError(f"{name}: got {value.dtype}, expected {' or '.join(str(d) for d in allowed)}")
    given = tuple(value.shape)
    if len(given) != len(shape) or any(w is not None and g != w for g, w in zip(given, shape, strict=True)):
        wanted = ", ".join("any" if w is None else str(w) for w in shape)
        raise ValueError(f"{name}: got shape {given}, expected ({wanted})")


def check_device(reference: Tensor, **tensors: Tensor | None) -> None:
    """Raises ValueError unless all tensors are where ``reference`` is."""
    for name, value in tensors.items():
        if value is not None and value.device != reference.device:
            raise ValueError(f"{name}: is on {value.device}, expected {reference.device} like the other arguments")


def check_triple(name: str, value: Sequence[float]) -> list[float]:
    """Three floats (red, green, blue) or ValueError."""
    triple = [float(v) for v in value]
    if len(triple) != 3:
        raise ValueError(f"{name}: got {value!r}, expected three numbers (red, green, blue)")
    return triple
