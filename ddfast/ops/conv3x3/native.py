"""conv3x3 by Winograd's F(2x2, 3x3): C++ transforms, torch's matrix products, a few images at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _registry

_SPLIT_INPUT, _SPLIT_GRADIENT, _JOIN = range(3)
# Tiles worked on at a time: enough rows for the products to be fast, few enough for the caches.
_ROWS = 256
# Fewer channels give products too thin to pay for the transforms (measured).
_CHANNELS = 128
# Fewer tiles do not pay for the transform of the filters (measured).
_FEWEST = 128
# A line apart from a power of two, so that the 16 positions of a tile do not share a cache set.
_PAD = 16
_local = threading.local()
_G = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]]


def rejects_filters(planes: Tensor, w: Tensor) -> str:
    """Why planes and filters are left to the reference."""
    return _rejects(planes, w, *w.shape[:2])


def rejects_planes(g: Tensor, x: Tensor) -> str:
    """Why a weight gradient is left to the reference."""
    return _rejects(g, x, g.shape[1], x.shape[1])


def _rejects(planes: Tensor, other: Tensor, *channels: int) -> str:
    n, _, h, w = planes.shape
    if planes.dtype != torch.float32 or other.dtype != torch.float32:
        return f"{planes.dtype} and {other.dtype} are left to the reference"
    if h % 2 or w % 2:
        return f"planes of {h} x {w} are not parted into squares of 2 x 2"
    if n * h * w < 4 * _FEWEST:
        return f"{n} planes of {h} x {w} are too few"
    if min(channels) < _CHANNELS or any(c % 16 for c in channels):
        return f"{' to '.join(map(str, channels[::-1]))} channels are left to the reference"
    return ""


def value(x: Tensor, w: Tensor) -> Tensor:
    """See the reference."""
    return _convolved(x, _kernel(), w.permute(2, 3, 1, 0))


def input_gradient(g: Tensor, w: Tensor) -> Tensor:
    """See the reference: a convolution by the filters turned round, inputs and outputs exchanged."""
    return _convolved(g, _kernel().flip(1), w.permute(2, 3, 0, 1))


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """See the reference."""
    g, x = (planes.contiguous(memory_format=torch.channels_last) for planes in (g, x))
    out, inner = g.shape[1], x.shape[1]
    rows, total, tiles_x, tiles_g = _room((9, inner, out), (16, inner, out), _shape(x, inner), _shape(g, out))
    total.zero_()
    for images, tiles in _parts(x):
        v, dm = tiles_x[:, :tiles], tiles_g[:, :tiles]
        _transform(_SPLIT_INPUT, x[images], v)
        _transform(_SPLIT_GRADIENT, g[images], dm)
        torch.baddbmm(total, v.transpose(1, 2), dm, out=total)
    torch.mm(_kernel().T, total.view(16, -1), out=rows.view(9, -1))
    filters = _channels_last(out, inner, 3, 3)
    return filters.copy_(rows.unflatten(0, (3, 3)).permute(3, 2, 0, 1))


def _convolved(x: Tensor, kernel: Tensor, filters: Tensor) -> Tensor:
    """Planes x through filters [3, 3, inputs, outputs], taken by ``kernel`` to the 16 positions."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, inner, h, w = x.shape
    out = filters.shape[3]
    y = _channels_last(n, out, h, w)
    rows, u, tiles_x, tiles_y = _room((9, inner, out), (16, inner, out), _shape(x, inner), _shape(x, out))
    torch.mm(kernel, rows.copy_(filters.flatten(0, 1)).view(9, -1), out=u.view(16, -1))
    for images, tiles in _parts(x):
        v, m = tiles_x[:, :tiles], tiles_y[:, :tiles]
        _transform(_SPLIT_INPUT, x[images], v)
        torch.bmm(v, u, out=m)
        _transform(_JOIN, y[images], m)
    return y


def _parts(x: Tensor) -> Iterator[tuple[slice, int]]:
    """Images to work on at a time, and their tiles."""
    each = x.shape[2] * x.shape[3] // 4
    step = max(_ROWS // each, 1)
    for start in range(0, len(x), step):
        images = slice(start, min(start + step, len(x)))
        yield images, (images.stop - start) * each


def _shape(x: Tensor, channels: int) -> tuple[int, int, int]:
    """Of the tiles of a part of x."""
    return 16, next(_parts(x))[1], channels


def _room(*shapes: tuple[int, int, int]) -> list[Tensor]:
    """Tensors, matrix by matrix with a line between, in memory of a thread's own.

    It is kept from call to call: allocated anew between the blocks of others it would break up the heap.
    """
    strides = [rows * columns + _PAD for _, rows, columns in shapes]
    sizes = [shape[0] * stride for shape, stride in zip(shapes, strides, strict=True)]
    kept: Tensor | None = getattr(_local, "room", None)
    if kept is None or kept.numel() < sum(sizes):
        with torch.inference_mode(False):
            kept = _local.room = torch.empty(sum(sizes), dtype=torch.float32, device="cpu")
    return [
        part.as_strided(shape, (stride, shape[2], 1), part.storage_offset())
        for part, shape, stride in zip(kept[: sum(sizes)].split(sizes), shapes, strides, strict=True)
    ]


def _transform(method: int, planes: Tensor, tiles: Tensor) -> None:
    module: Any = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"conv3x3: {_native.why_missing('_cpu')}")
    n, c, h, w = planes.shape
    shape = (n, h, w, c, tiles.stride(0))
    module.conv3x3_tiles(method, shape, planes.data_ptr(), tiles.data_ptr(), torch.get_num_threads())


def _kernel() -> Tensor:
    """[16, 9]: takes filters w as rows to G w G'."""
    g = torch.tensor(_G, dtype=torch.float32, device="cpu")
    return torch.kron(g, g)


def _channels_last(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu", memory_format=torch.channels_last)
