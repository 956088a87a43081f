"""Work on a few pictures of one class: read, decode into one arena, draw boxes, cut. Shared by all streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from ddfast._types import RaggedImages
from ddfast.data.batches import CropRequest, Draw, Failure, StreamError, check_boxes
from ddfast.data.decode import DecodeError, DecodeOptions, Probed, decode_into, probe
from ddfast.data.ring import make_executor
from ddfast.ops.multi_crop import multi_crop

if TYPE_CHECKING:
    from ddfast.data.sources import Source

_SOURCE_ERRORS = (LookupError, ValueError, TypeError, RuntimeError)


class Sample(NamedTuple):
    """A picture that was read and whose size is known."""

    position: int
    sample_id: str
    probed: Probed


class Packed(NamedTuple):
    """Decoded pictures side by side in ``arena``; ``offsets`` are the first bytes."""

    positions: NDArray[np.int64]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int32]
    arena: Tensor


def read_sample(source: Source, label: int, position: int, options: DecodeOptions) -> Sample:
    """Reads one picture and finds its size.

    Raises:
        DecodeError: not a usable picture.
        StreamError: the source could not deliver it.
    """
    data, sample_id = load_bytes(source, label, position)
    return Sample(position, sample_id, probe(data, sample_id, options))


def load_bytes(source: Source, label: int, position: int) -> tuple[bytes | NDArray[np.uint8], str]:
    """What the source holds for one picture, and the picture's name.

    Raises:
        DecodeError: the file cannot be read (no permission, a faulty disk, gone); one such file is no reason to stop.
        StreamError: the source itself is broken; the message names class, position and, if known, the sample.
    """
    name = f"{source.name}, label {label}, position {position}"
    try:
        name = source.sample_id(label, position)
        return source.load(label, position), name
    except OSError as error:
        raise DecodeError(name, f"cannot be read ({type(error).__name__}: {error})") from error
    except _SOURCE_ERRORS as error:
        raise StreamError(f"{name}: cannot be read ({type(error).__name__}: {error})") from error


def read_samples(
    source: Source, label: int, positions: NDArray[np.int64], options: DecodeOptions
) -> Iterator[Sample | Failure]:
    """Reads pictures in order, as they are asked for; those that are none become a `Failure`."""
    for position in positions.tolist():
        try:
            yield read_sample(source, label, position, options)
        except DecodeError as error:
            yield Failure(position, error.sample_id, error.reason)


def bounded(samples: Iterable[Sample | Failure], nbytes: int) -> Iterator[list[Sample | Failure]]:
    """Groups samples so that the pixels of a group fit into ``nbytes``; a larger picture is a group of its own."""
    group: list[Sample | Failure] = []
    total = 0
    for sample in samples:
        need = sample.probed.nbytes if isinstance(sample, Sample) else 0
        if group and total + need > nbytes:
            yield group
            group, total = [], 0
        group.append(sample)
        total += need
    if group:
        yield group


def decode_samples(samples: Sequence[Sample | Failure], arena: Tensor) -> tuple[Packed, list[Failure]]:
    """Decodes the samples side by side into ``arena`` (uint8, large enough); failures are collected in order."""
    pixels = arena.numpy()
    good: list[Sample] = []
    offsets: list[int] = []
    failures: list[Failure] = []
    at = 0
    for sample in samples:
        if isinstance(sample, Failure):
            failures.append(sample)
            continue
        try:
            decode_into(sample.probed, pixels[at : at + sample.probed.nbytes], sample.sample_id)
        except DecodeError as error:
            failures.append(Failure(sample.position, error.sample_id, error.reason))
            continue
        good.append(sample)
        offsets.append(at)
        at += sample.probed.nbytes
    positions = np.array([s.position for s in good], dtype=np.int64)
    sizes = np.array([s.probed[:2] for s in good], dtype=np.int32).reshape(-1, 2)
    return Packed(positions, np.array(offsets, dtype=np.int64), sizes, arena[:at]), failures


def cut_crops(
    source: Source, label: int, packed: Packed, rows: Tensor, request: CropRequest, draw: Draw, *, threads: int = 1
) -> NDArray[np.int32]:
    """Draws boxes for the pictures and writes their crops to the front of ``rows``; returns the boxes.

    Raises:
        StreamError: drawing or cutting failed; the message names the first picture.
        ValueError, TypeError: ``draw`` returned something else than boxes.
    """
    images = len(packed.positions)
    if not images:
        return np.empty((0, request.crops, 4), dtype=np.int32)
    boxes = check_boxes(draw(label, packed.positions, packed.sizes), packed.sizes, request.crops)
    device = packed.arena.device
    try:
        multi_crop(
            packed.arena,
            torch.from_numpy(packed.offsets).to(device),
            torch.from_numpy(packed.sizes).to(device),
            torch.from_numpy(boxes.reshape(-1, 4)).to(device),
            torch.from_numpy(np.repeat(np.arange(images, dtype=np.int32), request.crops)).to(device),
            size=request.size,
            mean=request.normalization.mean,
            std=request.normalization.std,
            dtype=request.dtype,
            channels_last=request.channels_last,
            threads=threads,
            out=rows[: images * request.crops],
            validate=False,  # checked above
        )
    except (ValueError, RuntimeError) as error:
        first = source.sample_id(label, int(packed.positions[0]))
        raise StreamError(f"{first} and the {images - 1} pictures after it: cutting crops failed ({error})") from error
    return boxes


def decode_ragged(
    source: Source, label: int, positions: ArrayLike, options: DecodeOptions, workers: int
) -> RaggedImages:
    """Decodes pictures into one packed tensor in host memory, in the order given.

    Raises:
        DecodeError: names the picture that cannot be decoded.
        StreamError: the source could not deliver one.
    """
    wanted = np.asarray(positions, dtype=np.int64)
    executor = make_executor(workers)
    try:
        reading = [executor.submit(read_sample, source, label, position, options) for position in wanted.tolist()]
        samples: list[Sample] = [future.result() for future in reading]
        ends = np.cumsum([0, *(s.probed.nbytes for s in samples)], dtype=np.int64)
        pixels = torch.empty(int(ends[-1]), dtype=torch.uint8)
        view = pixels.numpy()
        writing = [
            executor.submit(decode_into, s.probed, view[ends[i] : ends[i + 1]], s.sample_id)
            for i, s in enumerate(samples)
        ]
        for future in writing:
            future.result()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
    sizes = np.array([s.probed[:2] for s in samples], dtype=np.int32).reshape(-1, 2)
    return RaggedImages(pixels, torch.from_numpy(ends[:-1].copy()), torch.from_numpy(sizes))
