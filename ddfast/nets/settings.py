"""Process-wide settings of torch, changed for a block and put back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch


@contextlib.contextmanager
def torch_threads(threads: int | None) -> Iterator[None]:
    """Sets torch's intra-op threads for a block."""
    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _switch_off_tf32() -> Callable[[], None]:
    """Switches TF32 off and returns what puts the settings back.

    torch has two sets of switches, and reading one raises once the other was used: so the older is used, which most
    programs read, unless the program has gone over to the newer one.
    """
    cudnn: Any = torch.backends.cudnn
    try:
        convolutions, products = cudnn.allow_tf32, torch.get_float32_matmul_precision()
    except RuntimeError:
        parts = [(part, part.fp32_precision) for part in (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)]
        for part, _ in parts:
            part.fp32_precision = "ieee"

        def restore() -> None:
            for part, precision in parts:
                part.fp32_precision = precision

        return restore
    cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")

    def put_back() -> None:
        cudnn.allow_tf32 = convolutions
        torch.set_float32_matmul_precision(products)

    return put_back


class _FullFloat32:
    """Counts the blocks that want float32 without TF32: the first saves the settings, the last puts them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._restore: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._blocks == 0:
                self._restore = _switch_off_tf32()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    self._restore()


full_float32 = _FullFloat32()
"""``with full_float32():`` float32 convolutions and products on CUDA keep all 24 bits (no TF32), in any thread."""
