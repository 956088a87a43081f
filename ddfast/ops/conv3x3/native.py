"""conv3x3 by Winograd's F(2x2, 3x3): C++ transforms, torch's matrix products, a few images at a time."""

from __future__ import annotations

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
    if h % 2 or w % 2 or n * h * w < 4 * _FEWEST:
        return f"{n} planes of {h} x {w} are not parted into squares of 2 x 2"
    if min(channels) < _CHANNELS or any(c % 16 for c in channels):
        return f"{' to '.join(map(str, channels[::-1]))} channels are left to the reference"
    return ""


def value(x: Tensor, w: Tensor) -> Tensor:
    """See the reference."""
    out, inner = w.shape[:2]
    return _convolved(x, _kernel() @ w.permute(2, 3, 1, 0).reshape(9, inner * out), out)


def input_gradient(g: Tensor, w: Tensor) -> Tensor:
    """See the reference: a convolution by the filters turned round, inputs and outputs exchanged."""
    out, inner = w.shape[:2]
    return _convolved(g, _kernel().flip(1) @ w.permute(2, 3, 0, 1).reshape(9, out * inner), inner)


def weight_gradient(g: Tensor, x: Tensor) -> Tensor:
    """See the reference."""
    g, x = (planes.contiguous(memory_format=torch.channels_last) for planes in (g, x))
    out, inner = g.shape[1], x.shape[1]
    total = torch.zeros(16, inner, out)
    room = _buffers(x, inner, out)
    for images, tiles in _parts(x):
        v, dm = (each[:, :tiles] for each in room)
        _transform(_SPLIT_INPUT, x[images], v)
        _transform(_SPLIT_GRADIENT, g[images], dm)
        torch.baddbmm(total, v.transpose(1, 2), dm, out=total)
    filters = _kernel().T @ total.reshape(16, -1)
    return filters.reshape(3, 3, inner, out).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)


def _convolved(x: Tensor, filters: Tensor, out: int) -> Tensor:
    """Planes x through transformed filters [16, inputs * out]."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, inner, h, w = x.shape
    u = filters.reshape(16, inner, out)
    y = torch.empty((n, out, h, w), memory_format=torch.channels_last)
    room = _buffers(x, inner, out)
    for images, tiles in _parts(x):
        v, m = (each[:, :tiles] for each in room)
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


def _buffers(x: Tensor, *channels: int) -> list[Tensor]:
    """For the tiles of a part of x."""
    tiles = next(_parts(x))[1]
    return [_buffer(tiles, each) for each in channels]


def _buffer(tiles: int, channels: int) -> Tensor:
    """[16, tiles, channels] with a little room between the positions."""
    stride = tiles * channels + _PAD
    return torch.empty(16 * stride).as_strided((16, tiles, channels), (stride, channels, 1))


def _transform(method: int, planes: Tensor, tiles: Tensor) -> None:
    module: Any = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"conv3x3: {_native.why_missing('_cpu')}")
    n, c, h, w = planes.shape
    shape = (n, h, w, c, tiles.stride(0))
    module.conv3x3_tiles(method, shape, planes.data_ptr(), tiles.data_ptr(), torch.get_num_threads())


def _kernel() -> Tensor:
    """[16, 9]: takes filters w as rows to G w G'."""
    return torch.kron(torch.tensor(_G), torch.tensor(_G))
