"""Packed batches of pictures, boxes, guarded memory and forced backends for the tests of multi_crop and mosaic."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import use_backend

Ragged = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
BACKENDS = ("reference", "cpp-v3", "cpp-v4")


@contextlib.contextmanager
def forced(backend: str) -> Iterator[None]:
    """Runs all ops with one backend, and the C++ one with one instruction set; skips where that is missing."""
    name, _, isa = backend.partition("-")
    if name == "reference":
        with use_backend(name):
            yield
        return
    native = _native.cpu()
    if native is None:
        pytest.skip(_native.why_missing("_cpu"))
    before = native.isa()
    try:
        native.set_isa(isa)
    except ValueError as error:
        pytest.skip(str(error))
    try:
        with use_backend(name):
            yield
    finally:
        native.set_isa(before)


def pack(pictures: Sequence[np.ndarray], boxes: Sequence[Sequence[int]], index: Sequence[int]) -> Ragged:
    """Arguments of the ops from pictures [h, w, 3], boxes (top, left, height, width) and their pictures."""
    pixels = torch.from_numpy(np.concatenate([p.reshape(-1) for p in pictures]))
    ends = np.cumsum([p.size for p in pictures])
    offsets = torch.from_numpy(np.concatenate([[0], ends[:-1]]).astype(np.int64))
    sizes = torch.tensor([p.shape[:2] for p in pictures], dtype=torch.int32)
    return (
        pixels,
        offsets,
        sizes,
        torch.tensor(boxes, dtype=torch.int32).reshape(-1, 4),
        torch.tensor(index, dtype=torch.int32),
    )


def picture(height: int, width: int, seed: int) -> np.ndarray:
    """A smooth gradient with noise and saturated areas, so that both extremes and flat parts occur."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    wave = 128 + 150 * np.sin(x / 9 + seed)[..., None] * np.cos(y / 7)[..., None] * np.array([1, 0.7, -1])
    return np.clip(wave + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def odd_batch() -> Ragged:
    """Boxes of every awkward kind: whole picture, one pixel, one row, one column, last pixel, odd sides, large."""
    pictures = [picture(37, 53, 0), picture(1, 1, 1), picture(64, 20, 2), picture(141, 203, 3)]
    boxes = [
        (0, (0, 0, 37, 53)), (0, (36, 52, 1, 1)), (0, (5, 7, 1, 30)), (0, (3, 52, 33, 1)), (0, (2, 3, 29, 29)),
        (1, (0, 0, 1, 1)),
        (2, (0, 0, 64, 20)), (2, (10, 1, 2, 3)), (2, (63, 0, 1, 20)), (2, (31, 6, 14, 14)),
        (3, (0, 0, 141, 203)), (3, (1, 2, 139, 139)), (3, (40, 101, 101, 102)), (3, (0, 180, 141, 23)),
    ]  # fmt: skip
    return pack(pictures, [b for _, b in boxes], [i for i, _ in boxes])


def random_batch(count: int, seed: int, height: int = 90, width: int = 120, square: bool = False) -> Ragged:
    """Random boxes in three pictures."""
    rng = np.random.default_rng(seed)
    pictures = [picture(height, width, seed + i) for i in range(3)]
    boxes = []
    for _ in range(count):
        h, w = rng.integers(1, height + 1), rng.integers(1, width + 1)
        if square:
            h = w = min(h, w)
        boxes.append((int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), int(h), int(w)))
    return pack(pictures, boxes, rng.integers(0, 3, count).tolist())


def _protect(address: int, length: int, flags: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(length), flags):
        raise OSError(ctypes.get_errno(), "mprotect failed")


def survives_guard_pages(pixels: Tensor, run: Callable[[Tensor], None]) -> bool:
    """Whether ``run`` stays inside the pixels when they touch an unreadable page, first behind, then before them."""
    page, size = mmap.PAGESIZE, pixels.numel()
    room = -(-size // page) * page
    for at_end in (True, False):
        area = mmap.mmap(-1, room + 2 * page)
        whole = torch.frombuffer(area, dtype=torch.uint8)
        start = page + room - size if at_end else page
        inner = whole[start : start + size]
        inner.copy_(pixels)
        child = os.fork()
        if child == 0:  # a wrong access kills the child, not the test run
            try:
                _protect(whole.data_ptr(), page, 0)
                _protect(whole.data_ptr() + page + room, page, 0)
                run(inner)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if status != 0:
            return False
    return True
