"""NVIDIA DALI as the decoder: on the CPU pixel for pixel the default decoder, on a GPU (nvJPEG) close to it.

DALI only decodes. Files come from any source, boxes from the caller's draw and crops from `multi_crop`, so scores do
not depend on DALI's own random numbers or resizing.  Files that are no plain JPEG, and batches in which a file is
broken, are decoded by `ddfast.data.decode`, which names the culprit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from ddfast._types import RaggedImages
from ddfast.data.batches import CropBatch, CropRequest, Draw, Failure, Groups, StreamError, plan_batches
from ddfast.data.chunks import Packed, Sample, cut_crops, decode_ragged, decode_samples, read_samples
from ddfast.data.decode import DEFAULT_OPTIONS, DecodeOptions
from ddfast.data.ring import ChunkResult, Ring

if TYPE_CHECKING:
    from ddfast.data.sources import Source


def dali_missing() -> str:
    """Why DALI cannot be used, or "" when it can be imported."""
    found = importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None
    return "" if found else "the package nvidia-dali-cuda130 is not installed; pip install 'ddfast[dali]'"


class DaliStream:
    """Streams crops decoded by DALI; see `ddfast.data.streams.Stream`.

    Args:
        workers: DALI's decoding threads, and the threads of the crop op on the CPU; 0 means one, without reading ahead.
        device: where pictures are decoded and cut. On CUDA the pixels differ a little from the other streams'
            (nvJPEG's inverse DCT and chroma upsampling), so `exact` is False there.
        options: how pictures are decoded.
        read_ahead_bytes: upper limit for the crop buffers together.

    Raises:
        ModuleNotFoundError: DALI is not installed.
        ValueError: a negative number of workers.
    """

    name = "dali"

    def __init__(
        self,
        workers: int = 0,
        *,
        device: torch.device | str = "cpu",
        options: DecodeOptions = DEFAULT_OPTIONS,
        read_ahead_bytes: int = 512 << 20,
    ) -> None:
        missing = dali_missing()
        if missing:
            raise ModuleNotFoundError(f"stream 'dali': {missing}", name="nvidia.dali")
        if workers < 0:
            raise ValueError(f"workers: got {workers!r}, expected at least 0")
        self._workers = workers
        self._device = torch.device(device)
        self._options = options
        self._read_ahead_bytes = read_ahead_bytes
        self.exact = self._device.type == "cpu"

    def crops(
        self, source: Source, groups: Groups, request: CropRequest, draw: Draw, *, batch_images: int
    ) -> Iterator[CropBatch]:
        decoder = _Decoder(batch_images, max(self._workers, 1), self._device)
        threads = max(self._workers, 1)

        def fill(label: int, positions: NDArray[np.int64], rows: Tensor) -> ChunkResult:
            packed, failures = decoder(list(read_samples(source, label, positions, self._options)))
            boxes = cut_crops(source, label, packed, rows, request, draw, threads=threads)
            return ChunkResult(packed.positions, packed.sizes, boxes, failures)

        # one task is one batch, and one thread reads ahead: DALI brings its own threads
        ring = Ring(min(self._workers, 1), batch_images, self._read_ahead_bytes, self._device, self._device)
        return ring.run(plan_batches(groups, batch_images), request, fill, batch_images)

    def decode(self, source: Source, label: int, positions: ArrayLike) -> RaggedImages:
        """Decodes on the CPU, exactly, also when crops were scored from nvJPEG's pixels."""
        return decode_ragged(source, label, positions, self._options, self._workers)

    def close(self) -> None:
        """Pipelines belong to a run and end with it."""


class _Decoder:
    """One DALI pipeline: encoded JPEGs in, pictures packed into one tensor out."""

    def __init__(self, batch_images: int, threads: int, device: torch.device) -> None:
        self._device = device
        self._pipeline = _build_pipeline(batch_images, threads, device)

    def __call__(self, samples: list[Sample | Failure]) -> tuple[Packed, list[Failure]]:
        failures = [s for s in samples if isinstance(s, Failure)]
        good = [s for s in samples if isinstance(s, Sample)]
        encoded = [s for s in good if not isinstance(s.probed.data, np.ndarray)]
        pictures = self._run(encoded) if encoded else []
        if pictures is None:  # one of them is broken: find out which
            arena = torch.empty(sum(s.probed.nbytes for s in good), dtype=torch.uint8)
            packed, failures = decode_samples(samples, arena)
            return packed._replace(arena=packed.arena.to(self._device)), failures
        decoded = iter(pictures)
        flat = [
            torch.from_numpy(np.require(s.probed.data.reshape(-1), requirements="W")).to(self._device)
            if isinstance(s.probed.data, np.ndarray)
            else next(decoded)
            for s in good
        ]
        arena = torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8, device=self._device)
        ends = np.cumsum([0, *(s.probed.nbytes for s in good)], dtype=np.int64)
        sizes = np.array([s.probed[:2] for s in good], dtype=np.int32).reshape(-1, 2)
        return Packed(np.array([s.position for s in good], dtype=np.int64), ends[:-1].copy(), sizes, arena), failures

    def _run(self, samples: list[Sample]) -> list[Tensor] | None:
        """Flat uint8 pictures that are valid until the next run, or None when DALI refuses one of the files."""
        files = [np.frombuffer(s.probed.data, dtype=np.uint8) for s in samples]
        try:
            self._pipeline.feed_input("encoded", files)
            (pictures,) = self._pipeline.run()
        except RuntimeError:
            return None
        flat = [from_dlpack(pictures[i]).reshape(-1) for i in range(len(samples))]
        for sample, picture in zip(samples, flat, strict=True):
            if picture.numel() != sample.probed.nbytes:
                raise StreamError(
                    f"{sample.sample_id}: DALI gave {picture.numel()} bytes, expected {sample.probed.nbytes} "
                    f"for {sample.probed.width} x {sample.probed.height} pixels"
                )
        return flat


def _build_pipeline(batch_images: int, threads: int, device: torch.device) -> Any:
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline
    from nvidia.dali.types import DALIDataType, DALIImageType

    gpu = device.type == "cuda"
    number = (device.index or 0) if gpu else None
    pipeline = Pipeline(batch_size=batch_images, num_threads=threads, device_id=number, prefetch_queue_depth=1)
    with pipeline:
        encoded = fn.external_source(name="encoded", dtype=DALIDataType.UINT8, ndim=1, device="cpu", batch=True)
        pictures = fn.decoders.image(
            encoded,
            device="mixed" if gpu else "cpu",
            output_type=DALIImageType.RGB,
            adjust_orientation=False,
            jpeg_fancy_upsampling=True,
            use_fast_idct=False,
        )
        pipeline.set_outputs(pictures)
    pipeline.build()
    return pipeline
