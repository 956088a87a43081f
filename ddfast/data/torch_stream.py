"""The plain stream: torch's DataLoader, Pillow and the reference crop. Slow, simple, the yardstick for the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch.utils.data import DataLoader, Dataset

from ddfast._types import RaggedImages
from ddfast.data.batches import BatchPlan, CropBatch, CropRequest, Draw, Failure, Groups, StreamError, plan_batches
from ddfast.data.chunks import Packed, cut_crops, load_bytes
from ddfast.data.decode import DEFAULT_OPTIONS, DecodeError, DecodeOptions, decode_image, decode_with_pillow
from ddfast.ops import use_backend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ddfast.data.sources import Source


class TorchStream:
    """Streams crops through a plain `torch.utils.data.DataLoader`; see `ddfast.data.streams.Stream`.

    Args:
        workers: worker processes; 0 means in the calling process.
        device: where the crops are delivered.
        options: how pictures are decoded.

    Raises:
        ValueError: a negative number of workers.
    """

    name = "torch"
    exact = True

    def __init__(
        self, workers: int = 0, *, device: torch.device | str = "cpu", options: DecodeOptions = DEFAULT_OPTIONS
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers: got {workers!r}, expected at least 0")
        self._workers = workers
        self._device = torch.device(device)
        self._options = options

    def crops(
        self, source: Source, groups: Groups, request: CropRequest, draw: Draw, *, batch_images: int
    ) -> Iterator[CropBatch]:
        loader: DataLoader[CropBatch | StreamError] = DataLoader(
            _Batches(source, request, draw, self._options),
            batch_size=None,
            sampler=_Plans(groups, batch_images),  # type: ignore[arg-type]
            num_workers=self._workers,
            collate_fn=_unchanged,
        )
        for batch in loader:
            if isinstance(batch, StreamError):
                raise batch
            batch.crops = batch.crops.to(self._device)
            yield batch

    def decode(self, source: Source, label: int, positions: ArrayLike) -> RaggedImages:
        pictures = []
        for position in np.asarray(positions, dtype=np.int64).tolist():
            pictures.append(_decode(source, label, position, self._options))
        packed = _pack(np.asarray(positions, dtype=np.int64), pictures)
        return RaggedImages(packed.arena, torch.from_numpy(packed.offsets), torch.from_numpy(packed.sizes))

    def close(self) -> None:
        """Nothing is kept between runs."""


class _Plans:
    """The sampler: an iterable of batch plans, read by the loader a few batches ahead."""

    def __init__(self, groups: Groups, batch_images: int) -> None:
        self._groups = groups
        self._batch_images = batch_images

    def __iter__(self) -> Iterator[BatchPlan]:
        return plan_batches(self._groups, self._batch_images)


class _Batches(Dataset["CropBatch | StreamError"]):
    def __init__(self, source: Source, request: CropRequest, draw: Draw, options: DecodeOptions) -> None:
        self._source = source
        self._request = request
        self._draw = draw
        self._options = options

    def __getitem__(self, plan: Any) -> CropBatch | StreamError:
        try:
            return self._make(plan)
        except StreamError as error:  # as a value: the loader would wrap it and take seconds to end its processes
            return StreamError(str(error))

    def _make(self, plan: BatchPlan) -> CropBatch:
        pictures: list[NDArray[np.uint8]] = []
        positions: list[int] = []
        failures: list[Failure] = []
        for position in plan.positions.tolist():
            try:
                pictures.append(_decode(self._source, plan.label, position, self._options))
                positions.append(position)
            except DecodeError as error:
                failures.append(Failure(position, error.sample_id, error.reason))
        packed = _pack(np.array(positions, dtype=np.int64), pictures)
        crops = self._request.buffer(len(pictures))
        with use_backend("reference", ["multi_crop_out"]):
            boxes = cut_crops(self._source, plan.label, packed, crops, self._request, self._draw)
        return CropBatch(plan.label, packed.positions, packed.sizes, boxes, crops, failures, plan.last)


def _decode(source: Source, label: int, position: int, options: DecodeOptions) -> NDArray[np.uint8]:
    data, sample_id = load_bytes(source, label, position)
    if isinstance(data, np.ndarray):
        return decode_image(data, sample_id, options)
    return decode_with_pillow(data, sample_id, options)


def _pack(positions: NDArray[np.int64], pictures: list[NDArray[np.uint8]]) -> Packed:
    flat = [picture.reshape(-1) for picture in pictures]
    ends = np.cumsum([0, *(len(f) for f in flat)], dtype=np.int64)
    arena = torch.from_numpy(np.concatenate(flat)) if flat else torch.empty(0, dtype=torch.uint8)
    sizes = np.array([picture.shape[:2] for picture in pictures], dtype=np.int32).reshape(-1, 2)
    return Packed(positions, ends[:-1].copy(), sizes, arena)


def _unchanged(batch: Any) -> Any:
    return batch
