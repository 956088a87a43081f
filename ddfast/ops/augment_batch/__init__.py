"""Training views of a batch in one pass: shift, strip shuffle, crop, resize, flip, CutMix or mixup, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops._checks import check_triple
from ddfast.ops._ragged import check_positive
from ddfast.ops._registry import define
from ddfast.ops.augment_batch import reference
from ddfast.ops.augment_batch.checks import check_draws, check_shapes

__all__ = ["augment_batch"]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def _fake(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor, share: float, size: Sequence[int], mean: Sequence[float], std: Sequence[float],
    mixup: bool, dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty((index.shape[0], 3, *size), dtype=dtype, device=images.device, memory_format=layout)


def _cpp(
    images: Tensor, index: Tensor, columns: Tensor, rows: Tensor, boxes: Tensor, flip: Tensor, shift: Tensor,
    partner: Tensor, mix_box: Tensor, share: float, size: Sequence[int], mean: Sequence[float], std: Sequence[float],
    mixup: bool, dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    out = torch.empty(
        (index.shape[0], 3, *size),
        dtype=dtype,
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
    )
    images = images.contiguous()
    kept = [t.contiguous() for t in (index, columns, rows, boxes, flip, shift, partner)]
    code = _native.DTYPE_CODES[str(dtype).removeprefix("torch.")]
    native: Any = _native.cpu()
    native.augment_batch(
        (images.data_ptr(), *images.shape[:3]), (len(index), columns.shape[1], *(t.data_ptr() for t in kept)),
        mix_box.tolist(), share, mixup, size, mean, std, out.data_ptr(), channels_last, code, threads,
    )  # fmt: skip
    return out


def _triton(*args: Any) -> Tensor:
    from ddfast.ops.augment_batch.triton_kernels import augment_batch as run

    result: Tensor = run(*args)
    return result


def _rejects(*args: Any) -> str:
    return "float64 is computed by the reference" if args[14] == torch.float64 else ""


op = define(
    "augment_batch(Tensor images, Tensor index, Tensor columns, Tensor rows, Tensor boxes, Tensor flip, Tensor shift, "
    "Tensor partner, Tensor mix_box, float share, int[] size, float[] mean, float[] std, bool mixup, ScalarType dtype, "
    "bool channels_last, int threads) -> Tensor",
    reference.augment_batch,
    fake=_fake,
)
op.add_backend("cpp", _cpp, rejects=_rejects)
op.add_backend("triton", _triton, rejects=_rejects)


def augment_batch(
    images: Tensor,
    index: Tensor,
    columns: Tensor,
    rows: Tensor,
    boxes: Tensor,
    flip: Tensor,
    shift: Tensor,
    partner: Tensor,
    mix_box: Tensor,
    share: float,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    mixup: bool = False,
    dtype: torch.dtype = torch.float32,
    channels_last: bool = True,
    threads: int = 1,
    validate: bool = True,
) -> Tensor:
    """Augmented and normalised views of samples of a resident uint8 set, mixed with each other.

    ``view_i = (flip(resize(crop(shuffle(shift(images[index_i]))))) / 255 - mean) / std``, where ``shift`` moves the
    picture and zeros move in; ``shuffle`` permutes vertical strips, then horizontal strips (RDED's ShufflePatches, Sun
    et al. 2024, arXiv 2312.03526); ``resize`` is ``torch.nn.functional.interpolate(mode="bilinear", antialias=True,
    align_corners=False)`` of the crop alone in float32 (the identity for a crop of the output's size); ``flip`` mirrors
    left and right. Then

    - CutMix (Yun et al. 2019, arXiv 1905.04899): inside ``mix_box`` ``out_i = view_{partner_i}``, else ``view_i``;
    - mixup (Zhang et al. 2018, arXiv 1710.09412): ``out_i = share * view_i + (1 - share) * view_{partner_i}``.

    Low-precision outputs are rounded once at the end; float64 computes in float64.

    Args:
        images: uint8 [N, H, W, 3], contiguous.
        index: int64 [n], sample numbers, 0 to N - 1.
        columns: int32 [n, f], vertical strip ``columns[i, k]`` goes to place k; f divides W and H; f = 1 for none.
        rows: int32 [n, f], the same for horizontal strips.
        boxes: int32 [n, 4], (top, left, height, width) in pixels of the shuffled picture, at least 1 x 1.
        flip: bool [n].
        shift: int32 [n, 2], pixels down and right.
        partner: int64 [n], position within the batch, 0 to n - 1; need not be a permutation.
        mix_box: int32 [4], (top, left, height, width) in pixels of the view; all 0 for none; ignored by mixup.
        share: own part in [0, 1]; matters for mixup only.
        size: (h, w) of a view in pixels.
        mean: red, green, blue mean of pixels in [0, 1].
        std: red, green, blue standard deviation, positive.
        mixup: mixup instead of CutMix.
        dtype: float32, float64, bfloat16 or float16.
        channels_last: memory format of the result.
        threads: CPU threads to use, at least 1.
        validate: check the draws; callers that drew them themselves may pass False (the C++ backend still refuses draws
            out of range, and a CUDA call does not wait for the device: such samples are NaN).

    Returns:
        [n, 3, h, w].

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device, memory format or draw.
    """
    draws = (index, columns, rows, boxes, flip, shift, partner, mix_box)
    check_shapes(images, *draws)
    if len(size) != 2:
        raise ValueError(f"size: got {size!r}, expected (height, width)")
    check_positive("size", *size)
    mean, std = check_triple("mean", mean), check_triple("std", std)
    if min(std) <= 0:
        raise ValueError(f"std: got {std}, expected positive numbers")
    if not 0 <= share <= 1:
        raise ValueError(f"share: got {share}, expected a number in [0, 1]")
    if dtype not in FLOATS:
        raise TypeError(f"dtype: got {dtype}, expected {', '.join(str(d) for d in FLOATS)}")
    check_positive("threads", threads)
    if validate:
        check_draws(images, *draws, size)
    result: Tensor = torch.ops.ddfast.augment_batch(
        images, *draws, float(share), list(size), mean, std, mixup, dtype, channels_last, threads
    )
    return result
