"""Reading ahead into a ring of reused buffers: the part that all native streams share.

A batch is cut into chunks; each chunk is one task that writes its own rows of the batch's buffer.  Buffers are
allocated once and reused, because the page faults of fresh large allocations cost as much as half a decode.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast.data.batches import BatchPlan, CropBatch, CropRequest, Failure


class ChunkResult(NamedTuple):
    """What a task made of its chunk: the first ``len(positions) * crops`` of its rows are filled."""

    positions: NDArray[np.int64]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.int32]
    failures: list[Failure]


Fill = Callable[[int, NDArray[np.int64], Tensor], ChunkResult]
"""``fill(label, positions, rows)`` decodes and crops the pictures and writes the crops to the front of ``rows``."""


class InlineExecutor:
    """Runs tasks at once in the calling thread."""

    def submit(self, task: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(task(*args))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing is running."""


def make_executor(workers: int) -> InlineExecutor | ThreadPoolExecutor:
    """``workers`` threads, or the calling thread when 0."""
    return ThreadPoolExecutor(workers, thread_name_prefix="ddfast-data") if workers else InlineExecutor()


@dataclass
class _Pending:
    plan: BatchPlan
    buffer: Tensor
    chunks: list[Future[ChunkResult]]


class Ring:
    """Runs `Fill` tasks a bounded number of batches ahead of the consumer.

    Args:
        workers: threads for the tasks; 0 means in the calling thread, one batch at a time.
        chunk_images: pictures of one task.
        read_ahead_bytes: upper limit for all buffers together; two buffers (one with no workers) are always allowed.
        device: where the yielded crops are. Buffers are pinned host memory and copied for a CUDA device.
        buffers_on: where the tasks write; equal to ``device`` when they compute there.
    """

    def __init__(
        self, workers: int, chunk_images: int, read_ahead_bytes: int, device: torch.device, buffers_on: torch.device
    ) -> None:
        self._workers = workers
        self._chunk = chunk_images
        self._budget = read_ahead_bytes
        self._device = device
        self._buffers_on = buffers_on
        self.buffer_count = 0
        self._copies: torch.cuda.Stream | None = None  # copies go beside the forward, not behind it

    def run(
        self, plans: Iterator[BatchPlan], request: CropRequest, fill: Fill, batch_images: int
    ) -> Iterator[CropBatch]:
        limit = self._buffer_limit(request, batch_images)
        free: list[Tensor] = []
        pending: deque[_Pending] = deque()
        executor = make_executor(self._workers)
        self.buffer_count = 0
        try:
            while True:
                while free or self.buffer_count < limit:
                    plan = next(plans, None)
                    if plan is None:
                        break
                    pending.append(self._submit(executor, plan, self._take(free, request, batch_images), fill, request))
                if not pending:
                    return
                current = pending.popleft()
                batch, copied = self._collect(current, request)
                yield batch
                if copied is not None:
                    copied.synchronize()  # tasks must not write into the buffer before its copy is over
                free.append(current.buffer)
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _buffer_limit(self, request: CropRequest, batch_images: int) -> int:
        if not self._workers:
            return 1
        busy = -(-2 * self._workers * self._chunk // batch_images)  # two chunks for every worker
        affordable = self._budget // max(request.buffer_bytes(batch_images), 1)
        return max(2, min(1 + busy, affordable))

    def _take(self, free: list[Tensor], request: CropRequest, batch_images: int) -> Tensor:
        if free:
            return free.pop()
        self.buffer_count += 1
        pinned = self._device.type == "cuda" and self._buffers_on.type == "cpu"
        return request.buffer(batch_images, self._buffers_on, pinned=pinned)

    def _submit(
        self,
        executor: InlineExecutor | ThreadPoolExecutor,
        plan: BatchPlan,
        buffer: Tensor,
        fill: Fill,
        request: CropRequest,
    ) -> _Pending:
        chunks = []
        for start in range(0, len(plan.positions), self._chunk):
            positions = plan.positions[start : start + self._chunk]
            rows = buffer[start * request.crops : (start + len(positions)) * request.crops]
            chunks.append(executor.submit(fill, plan.label, positions, rows))
        return _Pending(plan, buffer, chunks)

    def _collect(self, pending: _Pending, request: CropRequest) -> tuple[CropBatch, torch.cuda.Event | None]:
        results = [chunk.result() for chunk in pending.chunks]
        done = _close_gaps(pending.buffer, results, self._chunk * request.crops, request.crops)
        crops, copied = pending.buffer[:done], None
        if crops.device.type != self._device.type:
            self._copies = self._copies or torch.cuda.Stream(self._device)
            crops, copied = _copy_to_device(crops, self._copies)
        whole = join_results(results, request.crops)
        batch = CropBatch(
            pending.plan.label, whole.positions, whole.sizes, whole.boxes, crops, whole.failures, pending.plan.last
        )
        return batch, copied


def _copy_to_device(rows: Tensor, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
    """Starts the copy of pinned rows on ``stream``; work queued later on the current stream waits for it."""
    current = torch.cuda.current_stream(stream.device)
    copied = torch.cuda.Event()
    with torch.cuda.stream(stream):
        there = rows.to(stream.device, non_blocking=True)
        copied.record(stream)
    current.wait_event(copied)
    there.record_stream(current)  # its memory is used there until that work is done
    return there, copied


def _close_gaps(buffer: Tensor, results: list[ChunkResult], stride: int, crops: int) -> int:
    """Moves the chunks' rows together where pictures failed; returns the number of rows."""
    done = 0
    for index, result in enumerate(results):
        rows, start = len(result.positions) * crops, index * stride
        if done != start and rows:
            buffer[done : done + rows] = buffer[start : start + rows].clone()  # the two ranges may overlap
        done += rows
    return done


def join_results(results: list[ChunkResult], crops: int) -> ChunkResult:
    """The results one after the other; an empty result for none."""
    if len(results) == 1:
        return results[0]
    if not results:
        nothing = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int32), np.empty((0, crops, 4), dtype=np.int32)
        return ChunkResult(*nothing, [])
    return ChunkResult(
        np.concatenate([r.positions for r in results]),
        np.concatenate([r.sizes for r in results]),
        np.concatenate([r.boxes for r in results]),
        [failure for r in results for failure in r.failures],
    )
