"""mmd in C++: squared differences, kernels and the gradient's product, a class at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _registry


def rejects(x: Tensor, *_: Any) -> str:
    """Why points are left to the reference."""
    return "" if x.dtype == torch.float32 else f"{x.dtype} is left to the reference"


def rejects_gradient(upstream: Tensor, weights: Tensor, x: Tensor, *_: Any) -> str:
    """Why a gradient is left to the reference."""
    return rejects(x)


def value(x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool, wanted: int) -> tuple[Tensor, Tensor]:
    """See the reference."""
    x, y, sigmas = _rows(x), _rows(y), sigmas.contiguous()
    classes, n, features = x.shape
    points = n + y.shape[1]
    rows = (0, n, points)[wanted]
    out = torch.empty(classes, dtype=torch.float32, device="cpu")
    weights = torch.empty(classes, rows, points, dtype=torch.float32, device="cpu")
    _module().mmd(
        classes, features, _address(x), _address(y), sigmas.data_ptr(), sigmas.shape[1], unbiased, real_term, rows,
        out.data_ptr(), weights.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return out, weights


def gradient(
    upstream: Tensor, weights: Tensor, x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool,
    both: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See the reference."""
    grads = torch.empty_like(x), torch.empty_like(y) if both else torch.empty(0, dtype=y.dtype, device="cpu")
    grad_x, grad_y = (_rows(grad) for grad in grads)
    x, y, upstream, weights = _rows(x), _rows(y), upstream.contiguous(), weights.contiguous()
    _module().mmd_backward(
        len(x), x.shape[2], _address(x), _address(y), upstream.data_ptr(), weights.data_ptr(), _address(grad_x),
        _address(grad_y) if both else (0, 0, 0, 0), torch.get_num_threads(),
    )  # fmt: skip
    for grad, found in zip(grads, (grad_x, grad_y), strict=True):
        if found is not grad:
            grad.copy_(found)
    return grads


def _rows(points: Tensor) -> Tensor:
    """The features of a point next to each other."""
    return points if points.ndim != 3 or points.stride(2) == 1 else points.contiguous()


def _address(points: Tensor) -> tuple[int, int, int, int]:
    return points.data_ptr(), points.shape[1], points.stride(0), points.stride(1)


def _module() -> Any:
    module: Any = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"mmd: {_native.why_missing('_cpu')}")
    return module
