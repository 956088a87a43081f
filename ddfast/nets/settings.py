"""Process-wide settings of torch, changed for a block and put back."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
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


class _FullFloat32:
    """Counts the blocks that want float32 without TF32: the first saves the settings, the last puts them back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._saved: list[tuple[Any, str]] = []

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._blocks == 0:
                cudnn: Any = torch.backends.cudnn
                parts = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
                self._saved = [(part, part.fp32_precision) for part in parts]
                for part, _ in self._saved:
                    part.fp32_precision = "ieee"
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    for part, precision in self._saved:
                        part.fp32_precision = precision


full_float32 = _FullFloat32()
"""``with full_float32():`` float32 convolutions and products on CUDA keep all 24 bits (no TF32), in any thread."""
