"""Streams: labelled pictures in, batches of normalised random crops out, by one of three engines.

The crops of a stream do not depend on the number of workers, the batch size or the engine (DALI on a GPU excepted,
whose pixels differ a little): boxes come from a pure function of (label, position, size), files from a `Source`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import torch
from numpy.typing import ArrayLike

from ddfast._types import RaggedImages
from ddfast.data.batches import CropBatch, CropRequest, Draw, Groups
from ddfast.data.dali_stream import DaliStream
from ddfast.data.decode import DEFAULT_OPTIONS, DecodeOptions
from ddfast.data.threads_stream import ThreadStream
from ddfast.data.torch_stream import TorchStream

if TYPE_CHECKING:
    from ddfast.data.sources import Source

STREAM_NAMES = ("auto", "threads", "dali", "torch")


class Stream(Protocol):
    """An engine that reads, decodes and crops. ``exact`` says whether pixels equal Pillow's."""

    name: str
    exact: bool

    def crops(
        self, source: Source, groups: Groups, request: CropRequest, draw: Draw, *, batch_images: int
    ) -> Iterator[CropBatch]:
        """Streams the crops of groups of pictures.

        Args:
            source: where the pictures come from.
            groups: (label, positions) pairs; read a few batches ahead.
            request: number, size and format of the crops.
            draw: pure function (label, positions, sizes) -> boxes int32 [n, m, 4].
            batch_images: pictures of a batch at most; a batch never spans two groups.

        Yields:
            Batches in the order of the groups; the last one of each group has ``last=True`` and comes even when it is
            empty. The crops of a batch are valid until the next one is asked for.

        Raises:
            StreamError: the source itself failed; the message names the picture. (A file that cannot be read or
                decoded is no error: it is listed in the batch's ``failures``.)
        """

    def decode(self, source: Source, label: int, positions: ArrayLike) -> RaggedImages:
        """Decodes whole pictures into host memory, in the order given, pixel for pixel as Pillow does.

        Raises:
            DecodeError: names the picture that cannot be decoded.
            StreamError: the source itself failed.
        """

    def close(self) -> None:
        """Gives memory back. Threads and processes end with each run of `crops` already."""


def open_stream(
    name: str = "auto",
    *,
    workers: int,
    device: torch.device | str = "cpu",
    options: DecodeOptions = DEFAULT_OPTIONS,
) -> Stream:
    """Opens a stream.

    Args:
        name: ``"threads"``, libjpeg-turbo and native crops in threads; ``"dali"``, decoding by NVIDIA DALI;
            ``"torch"``, a plain DataLoader with Pillow and the reference crop; ``"auto"``, the fastest exact one,
            which is ``"threads"`` (DALI is exact on a CPU but no faster there, and not exact on a GPU).
        workers: threads (for "torch": processes); 0 means in the calling thread.
        device: where the crops are delivered.
        options: how pictures are decoded.

    Returns:
        The stream.

    Raises:
        ValueError: unknown name or negative ``workers``.
        ModuleNotFoundError: ``"dali"`` without DALI.
    """
    if name in ("auto", "threads"):
        return ThreadStream(workers, device=device, options=options)
    if name == "dali":
        return DaliStream(workers, device=device, options=options)
    if name == "torch":
        return TorchStream(workers, device=device, options=options)
    raise ValueError(f"name: got {name!r}, expected one of {', '.join(STREAM_NAMES)}")
