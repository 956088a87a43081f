"""Tiles of real pictures: cuts the chosen patches, resizes them with antialiasing, writes factor x factor mosaics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast._types import IMAGENET
from ddfast.ops._checks import check_triple
from ddfast.ops._ragged import check_boxes, check_positive, check_ragged, ragged_address
from ddfast.ops._registry import define
from ddfast.ops.mosaic import reference

__all__ = ["mosaic"]

ROUNDINGS = ("nearest", "truncate")


def _fake(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: int, factor: int, rounding: str, mean: Sequence[float], std: Sequence[float], threads: int,
) -> Tensor:  # fmt: skip
    return torch.empty((boxes.shape[0] // factor**2, size, size, 3), dtype=torch.uint8, device=pixels.device)


def _cpp(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: int, factor: int, rounding: str, mean: Sequence[float], std: Sequence[float], threads: int,
) -> Tensor:  # fmt: skip
    address, _kept = ragged_address(pixels, offsets, sizes, boxes, image_index)
    out = torch.empty((boxes.shape[0] // factor**2, size, size, 3), dtype=torch.uint8)
    native: Any = _native.cpu()
    native.mosaic(address, size, factor, rounding == "truncate", mean, std, out.data_ptr(), threads)
    return out


def _triton(*args: Any) -> Tensor:
    from ddfast.ops.mosaic.triton_kernels import mosaic as run

    result: Tensor = run(*args)
    return result


op = define(
    "mosaic(Tensor pixels, Tensor offsets, Tensor sizes, Tensor boxes, Tensor image_index, int size, int factor, "
    "str rounding, float[] mean, float[] std, int threads) -> Tensor",
    reference.mosaic,
    fake=_fake,
)
op.add_backend("cpp", _cpp)
op.add_backend("triton", _triton)


def mosaic(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    size: int,
    factor: int,
    rounding: str = "nearest",
    mean: Sequence[float] = IMAGENET.mean,
    std: Sequence[float] = IMAGENET.std,
    threads: int = 1,
    validate: bool = True,
) -> Tensor:
    """Writes n pictures of factor x factor patches each (RDED, Sun et al. 2024, arXiv 2312.03526).

    A crop is resized (antialiased bilinear, the crop alone, float32) to side ``s = size // factor``.  Cells are
    row-major; row and column i of the grid are s + 1 pixels wide if ``i < size % factor`` and s otherwise, and a patch
    fills its cell by nearest-neighbour.  ``"nearest"`` rounds ``255 * value`` half to even.  ``"truncate"`` repeats
    what RDED's own code stores: normalise, divide by float32(1 / std), add mean, times 255, drop the fraction; it
    darkens by half a grey level on average.

    Bytes depend on the last bits of a float32 sum where a value lies on a rounding boundary.  The C++ backend repeats
    the order of operations of torch's AVX2 and AVX-512 kernels there and gives the reference's bytes; with other builds
    of torch, and in backends for GPUs, such bytes may differ by one grey level (below 1 in 10,000 for ``"nearest"``,
    more for ``"truncate"``, where every flat area lies on a boundary).

    Args:
        pixels: uint8 [total bytes], RGB pictures one after the other, each height x width x 3.
        offsets: int64 [n images], first byte of each picture.
        sizes: int32 [n images, 2], (height, width) in pixels.
        boxes: int32 [n * factor**2, 4], (top, left, height, width); row j * factor**2 + k is cell k of mosaic j.
        image_index: int32 [n * factor**2], the picture of each box.
        size: side of a mosaic in pixels, at least ``factor``.
        factor: patches per side, at least 1.
        rounding: ``"nearest"`` or ``"truncate"``.
        mean: red, green, blue mean; matters for ``"truncate"`` only.
        std: red, green, blue standard deviation, positive; matters for ``"truncate"`` only.
        threads: CPU threads to use, at least 1.
        validate: check the boxes; callers that drew the boxes themselves may pass False.

    Returns:
        uint8 [n, size, size, 3].

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device or box, or a number of boxes that is no multiple of ``factor**2``.
    """
    check_ragged(pixels, offsets, sizes, boxes, image_index)
    check_positive("factor", factor)
    if size < factor:
        raise ValueError(f"size: got {size}, expected at least factor {factor}")
    if boxes.shape[0] % factor**2:
        raise ValueError(f"boxes: got {boxes.shape[0]} rows, expected a multiple of factor**2 = {factor**2}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding: got {rounding!r}, expected one of {', '.join(ROUNDINGS)}")
    mean, std = check_triple("mean", mean), check_triple("std", std)
    if min(std) <= 0:
        raise ValueError(f"std: got {std}, expected positive numbers")
    check_positive("threads", threads)
    if validate:
        check_boxes(pixels, offsets, sizes, boxes, image_index)
    result: Tensor = torch.ops.ddfast.mosaic(
        pixels, offsets, sizes, boxes, image_index, size, factor, rounding, mean, std, threads
    )
    return result
