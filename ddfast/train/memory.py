"""Out of memory while training: which batch size would fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_CPU_SIGNS = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


class TrainMemoryError(MemoryError):
    """A step did not fit; the message names the batch size that would."""


@contextmanager
def explained(batch_size: int, device: torch.device) -> Iterator[None]:
    """Turn the device's out-of-memory error into `TrainMemoryError` with a batch size that would fit.

    The memory in use on entering (weights, optimiser, resident set) is taken as fixed, what was allocated on top of it
    as proportional to the batch. Since the step had not finished, that is a lower bound, so the size named is the
    largest halving below the bound.

    Raises:
        TrainMemoryError: the step ran out of memory.
    """
    fixed = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, TrainMemoryError) or not _out_of_memory(error):
            raise
        raise TrainMemoryError(_advice(batch_size, device, fixed, str(error))) from error


def fitting_batch(batch_size: int, allocated: int, fixed: int, total: int) -> int:
    """Largest halving of ``batch_size`` for which ``fixed + (allocated - fixed) * share`` bytes fit ``total``; >= 1.

    ``allocated`` is what was in use when the step failed, the failed request included; at least one halving is made.
    """
    per_batch = max(allocated - fixed, 1)
    size = max(batch_size // 2, 1)
    while size > 1 and fixed + per_batch * size / batch_size > total:
        size //= 2
    return size


def _requested(error: str) -> int:
    """Bytes of the request that failed, from torch's message; 0 where it does not say."""
    found = re.search(r"Tried to allocate ([0-9.]+) ([KMG])iB", error)
    return int(float(found[1]) * 1024 ** ("KMG".index(found[2]) + 1)) if found else 0


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return any(sign in str(error) for sign in _CPU_SIGNS)


def _advice(batch_size: int, device: torch.device, fixed: int, error: str) -> str:
    said, size = "", max(batch_size // 2, 1)
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        peak = torch.cuda.max_memory_allocated(device) + _requested(error)
        size = fitting_batch(batch_size, peak, fixed, total)
        said = f" ({(peak - fixed) / 1e9:.2f} GB for the step on top of {fixed / 1e9:.2f} GB, of {total / 1e9:.2f} GB)"
    if batch_size == 1:
        return f"out of memory on {device} with one image a step{said}; take a smaller network or precision='bf16'"
    return (
        f"out of memory on {device} with batch_size {batch_size}{said}; batch_size {size} should fit, and "
        "precision='bf16' about halves what a step needs"
    )
