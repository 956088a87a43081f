"""Many random crops of a ragged batch of pictures: cut, resize with antialiasing, normalise and place, in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops._checks import check_device, check_tensor, check_triple
from ddfast.ops._ragged import check_boxes, check_positive, check_ragged, ragged_address
from ddfast.ops._registry import define
from ddfast.ops.multi_crop import reference

__all__ = ["multi_crop"]

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_INPUTS = "Tensor pixels, Tensor offsets, Tensor sizes, Tensor boxes, Tensor image_index"


def _fake(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], canvas: Sequence[int] | None, canvas_value: float,
    dtype: torch.dtype, channels_last: bool, threads: int,
) -> Tensor:  # fmt: skip
    layout = torch.channels_last if channels_last else torch.contiguous_format
    shape = (boxes.shape[0], 3, *(size if canvas is None else canvas))
    return torch.empty(shape, dtype=dtype, device=pixels.device, memory_format=layout)


def _rejects_dtype(dtype: torch.dtype) -> str:
    return "float64 is computed by the reference" if dtype == torch.float64 else ""


def _layout(out: Tensor) -> str:
    """``planar`` or ``packed`` when each crop is contiguous in that order, else an empty string."""
    _, _, height, width = out.shape
    for name, wanted in (("planar", (height * width, width, 1)), ("packed", (1, 3 * width, 3))):
        if all(g == w or n == 1 for g, w, n in zip(out.stride()[1:], wanted, out.shape[1:], strict=True)):
            return name
    return ""


def _rejects_layout(out: Tensor) -> str:
    return "" if _layout(out) else f"out has strides {out.stride()}, neither contiguous nor channels_last in each crop"


def _cpp_out(
    pixels: Tensor, offsets: Tensor, sizes: Tensor, boxes: Tensor, image_index: Tensor,
    size: Sequence[int], mean: Sequence[float], std: Sequence[float], canvas_value: float, threads: int, out: Tensor,
) -> None:  # fmt: skip
    address, _kept = ragged_address(pixels, offsets, sizes, boxes, image_index)
    code = _native.DTYPE_CODES[str(out.dtype).removeprefix("torch.")]
    packed = _layout(out) == "packed"
    native: Any = _native.cpu()
    native.multi_crop(
        address, size, out.shape[2:], mean, std, canvas_value, out.data_ptr(), out.stride(0), packed, code, threads
    )


def _cpp(*args: Any) -> Tensor:
    out = _fake(*args)
    shared: tuple[Any, ...] = (*args[:8], args[9], args[12], out)  # all but canvas, dtype and layout, which out has
    _cpp_out(*shared)
    return out


def _triton(*args: Any) -> Tensor:
    from ddfast.ops.multi_crop.triton_kernels import multi_crop as run

    result: Tensor = run(*args)
    return result


def _triton_out(*args: Any) -> None:
    from ddfast.ops.multi_crop.triton_kernels import multi_crop_out as run

    run(*args)


op = define(
    f"multi_crop({_INPUTS}, int[] size, float[] mean, float[] std, int[]? canvas, float canvas_value, "
    "ScalarType dtype, bool channels_last, int threads) -> Tensor",
    reference.multi_crop,
    fake=_fake,
)
# The canvas is out's height and width, and dtype and layout are out's own.
op_out = define(
    f"multi_crop_out({_INPUTS}, int[] size, float[] mean, float[] std, float canvas_value, int threads, "
    "Tensor(a!) out) -> ()",
    reference.multi_crop_out,
    fake=lambda *_: None,
)
op.add_backend("cpp", _cpp, rejects=lambda *args: _rejects_dtype(args[10]))
op_out.add_backend("cpp", _cpp_out, rejects=lambda *args: _rejects_dtype(args[10].dtype) or _rejects_layout(args[10]))
op.add_backend("triton", _triton, rejects=lambda *args: _rejects_dtype(args[10]))
op_out.add_backend("triton", _triton_out, rejects=lambda *args: _rejects_dtype(args[10].dtype))


def multi_crop(
    pixels: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    boxes: Tensor,
    image_index: Tensor,
    *,
    size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    canvas: tuple[int, int] | None = None,
    canvas_value: float = 0.0,
    dtype: torch.dtype | None = None,
    channels_last: bool = False,
    threads: int = 1,
    out: Tensor | None = None,
    validate: bool = True,
) -> Tensor:
    """Cuts m boxes out of packed pictures and returns them resized and normalised.

    ``value = (resize(crop / 255) - mean) / std``, where ``resize`` is
    ``torch.nn.functional.interpolate(mode="bilinear", antialias=True, align_corners=False)`` of the crop alone in
    float32: a triangle filter whose support grows with the shrink factor and that never reads outside the box (the
    random-resized-crop of RDED, Sun et al. 2024, arXiv 2312.03526).  Low-precision outputs are rounded once at the end;
    float64 computes in float64.

    Args:
        pixels: uint8 [total bytes], RGB pictures one after the other, each height x width x 3.
        offsets: int64 [n], first byte of each picture.
        sizes: int32 [n, 2], (height, width) of each picture in pixels.
        boxes: int32 [m, 4], (top, left, height, width) in pixels, inside the picture, at least 1 x 1.
        image_index: int32 [m], the picture of each box, 0 to n - 1.
        size: (h, w) of the resized crop in pixels.
        mean: red, green, blue mean of pixels in [0, 1].
        std: red, green, blue standard deviation, positive.
        canvas: (H, W) at least ``size``: the crop sits at top (H - h) // 2, left (W - w) // 2; None for no frame.
        canvas_value: value of the frame, in normalised units.
        dtype: float32, float64, bfloat16 or float16; that of ``out``, else float32, when None.
        channels_last: memory format of the result; without meaning when ``out`` is given.
        threads: CPU threads to use, at least 1.
        out: tensor to fill, contiguous or channels_last within each crop; every element is written once.
        validate: check the boxes; callers that drew the boxes themselves may pass False (the C++ backend still refuses
            boxes outside their picture, and a CUDA call does not wait for the device).

    Returns:
        [m, 3, h, w], or [m, 3, H, W] with a canvas; ``out`` itself when given.

    Raises:
        TypeError: wrong type or dtype.
        ValueError: wrong shape, device, memory format or box.
    """
    check_ragged(pixels, offsets, sizes, boxes, image_index)
    shape = _check_geometry(boxes.shape[0], size, canvas)
    mean, std = check_triple("mean", mean), check_triple("std", std)
    if min(std) <= 0:
        raise ValueError(f"std: got {std}, expected positive numbers")
    if dtype is not None and dtype not in FLOATS:
        raise TypeError(f"dtype: got {dtype}, expected {', '.join(str(d) for d in FLOATS)}")
    check_positive("threads", threads)
    if validate:
        check_boxes(pixels, offsets, sizes, boxes, image_index)
    head = (pixels, offsets, sizes, boxes, image_index, list(size), mean, std)
    if out is None:
        ends = (dtype or torch.float32, channels_last, threads)
        result: Tensor = torch.ops.ddfast.multi_crop(
            *head, None if canvas is None else list(canvas), canvas_value, *ends
        )
        return result
    _check_out(out, shape, dtype, pixels)
    torch.ops.ddfast.multi_crop_out(*head, canvas_value, threads, out)
    return out


def _check_geometry(m: int, size: Sequence[int], canvas: Sequence[int] | None) -> tuple[int, int, int, int]:
    for name, value in (("size", size), ("canvas", canvas)):
        if value is not None and len(value) != 2:
            raise ValueError(f"{name}: got {value!r}, expected (height, width)")
    check_positive("size", *size)
    if canvas is not None and (canvas[0] < size[0] or canvas[1] < size[1]):
        raise ValueError(f"canvas: got {tuple(canvas)}, expected at least size {tuple(size)} in both directions")
    height, width = size if canvas is None else canvas
    return m, 3, height, width


def _check_out(out: Tensor, shape: tuple[int, ...], dtype: torch.dtype | None, pixels: Tensor) -> None:
    check_tensor("out", out, FLOATS if dtype is None else dtype, shape)
    check_device(pixels, out=out)
    overlap = shape[0] > 1 and out.stride(0) < shape[1] * shape[2] * shape[3]
    if out.numel() and (overlap or not _layout(out)):
        raise ValueError(
            f"out: got strides {out.stride()} for shape {shape}, expected each crop contiguous or channels_last, and "
            "crops that do not overlap"
        )
