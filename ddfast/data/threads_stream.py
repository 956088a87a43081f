"""The default stream: threads that decode with libjpeg-turbo and crop natively, both without the interpreter lock."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddfast._types import RaggedImages
from ddfast.data.batches import CropBatch, CropRequest, Draw, Failure, Groups, plan_batches
from ddfast.data.chunks import bounded, cut_crops, decode_ragged, decode_samples, read_samples
from ddfast.data.decode import DEFAULT_OPTIONS, DecodeOptions
from ddfast.data.ring import ChunkResult, Ring, join_results

if TYPE_CHECKING:
    from ddfast.data.sources import Source

KEPT_ARENA_BYTES = 64 << 20
"""Pixels that a thread decodes at a time; a larger picture gets memory of its own, which is given back."""


class ThreadStream:
    """Streams crops through a pool of threads; see `ddfast.data.streams.Stream`.

    Args:
        workers: threads; 0 means everything happens in the calling thread, without reading ahead.
        device: where the crops are delivered.
        options: how pictures are decoded.
        chunk_images: pictures of one task; 16 in threads and 32 without them when None. (Drawing boxes costs as much
            for one picture as for many.)
        read_ahead_bytes: upper limit for the crop buffers together.

    Raises:
        ValueError: a negative number of workers, or limits below 1.
    """

    name = "threads"
    exact = True

    def __init__(
        self,
        workers: int = 0,
        *,
        device: torch.device | str = "cpu",
        options: DecodeOptions = DEFAULT_OPTIONS,
        chunk_images: int | None = None,
        read_ahead_bytes: int = 512 << 20,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers: got {workers!r}, expected at least 0")
        if chunk_images is None:
            chunk_images = 16 if workers else 32
        if chunk_images < 1:
            raise ValueError(f"chunk_images: got {chunk_images!r}, expected at least 1")
        if read_ahead_bytes < 1:
            raise ValueError(f"read_ahead_bytes: got {read_ahead_bytes!r}, expected at least 1")
        self._workers = workers
        self._device = torch.device(device)
        self._options = options
        self._arenas = threading.local()
        self._ring = Ring(workers, chunk_images, read_ahead_bytes, self._device, torch.device("cpu"))

    @property
    def buffer_count(self) -> int:
        """Crop buffers that the latest run allocated."""
        return self._ring.buffer_count

    def crops(
        self, source: Source, groups: Groups, request: CropRequest, draw: Draw, *, batch_images: int
    ) -> Iterator[CropBatch]:
        def fill(label: int, positions: NDArray[np.int64], rows: Tensor) -> ChunkResult:
            parts: list[ChunkResult] = []
            for samples in bounded(read_samples(source, label, positions, self._options), KEPT_ARENA_BYTES):
                arena = self._arena(sum(s.probed.nbytes for s in samples if not isinstance(s, Failure)))
                packed, failures = decode_samples(samples, arena)
                filled = sum(len(part.positions) for part in parts) * request.crops
                boxes = cut_crops(source, label, packed, rows[filled:], request, draw)
                parts.append(ChunkResult(packed.positions, packed.sizes, boxes, failures))
            return join_results(parts, request.crops)

        return self._ring.run(plan_batches(groups, batch_images), request, fill, batch_images)

    def decode(self, source: Source, label: int, positions: ArrayLike) -> RaggedImages:
        return decode_ragged(source, label, positions, self._options, self._workers)

    def close(self) -> None:
        self._arenas = threading.local()

    def _arena(self, nbytes: int) -> Tensor:
        """Uninitialised bytes that this thread may use until its next call."""
        if nbytes > KEPT_ARENA_BYTES:
            return torch.empty(nbytes, dtype=torch.uint8)
        kept: Tensor | None = getattr(self._arenas, "pixels", None)
        if kept is None or kept.numel() < nbytes:
            kept = torch.empty(min(nbytes + nbytes // 4, KEPT_ARENA_BYTES), dtype=torch.uint8)
            self._arenas.pixels = kept
        return kept
