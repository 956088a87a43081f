"""Differentiable siamese augmentation as one pass from a table of parameters, with its transpose."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _checks, _registry
from ddfast.ops.dsa import reference
from ddfast.ops.dsa.reference import PARAMETERS

__all__ = ["PARAMETERS", "dsa", "dsa_adjoint"]

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_PARAMS = (torch.float64, torch.float32)


def dsa(images: Tensor, params: Tensor, *, addend: bool = True) -> Tensor:
    """Colour, one geometric map and a cutout, each picture by its own row of parameters.

    With x the picture, ``grey`` its mean over channels and ``mean`` its mean over channels and pixels, all before:

        colour:   z = k s x + k (1 - s) grey + (1 - k) mean + b
        geometry: y(r, c) = z at row ``p3 r + p4 c + p5``, column ``p6 r + p7 c + p8``, bilinear, zero outside
        cutout:   y(r, c) = 0 for p9 <= r < p10 and p11 <= c < p12

    The colour is brightness (b = p0 is added), then saturation about ``grey`` (s = p1), then contrast about the mean
    of the picture as it is then (k = p2); the row (0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0) changes nothing. Which
    operation acts is in ``params`` alone, so a captured graph serves every draw; `ddfast.train.dsa.pack` makes rows of
    draws. Rows and columns count from 0 in pixels; maps by whole pixels (crops, mirrorings) are exact.

    Affine in the pixels, and differentiable in them any number of times: the gradient is `dsa_adjoint`, its gradient
    ``dsa(..., addend=False)``. Pixels and map are computed in float64 for float64 images and in float32 otherwise (map
    in float64 in C++), and must be finite.

    Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021 (arXiv 2102.08259); Kim
    et al., "Dataset Condensation via Efficient Synthetic-Data Parameterization", ICML 2022 (arXiv 2205.14959).

    Args:
        images: float32, float64, bfloat16 or float16 [n, c, H, W].
        params: float64 or float32 [n, 13], or [1, 13] for the same on every picture; not differentiated.
        addend: False leaves b out: the linear part.

    Returns:
        [n, c, H, W] of images' type and layout.

    Raises:
        TypeError, ValueError: wrong type, shape or device, or ``params`` that ask for a gradient.
    """
    _check("images", images, params)
    result: Tensor = torch.ops.ddfast.dsa(images, params, addend)
    return result


def dsa_adjoint(gradient: Tensor, params: Tensor) -> Tensor:
    """The transpose of `dsa`'s linear part: ``<dsa(x, addend=False), g> = <x, dsa_adjoint(g)>``.

    A pixel gathers from the pixels that took from it (GPU) or they are scattered picture by picture (CPU): either way
    in one fixed order, so results repeat bit by bit; not so on a GPU for float64 or more than 16 channels, which go to
    the reference.

    Args:
        gradient: with respect to `dsa`'s result, [n, c, H, W].
        params: as for `dsa`.

    Returns:
        The gradient with respect to `dsa`'s images, of ``gradient``'s shape, type and layout.

    Raises:
        TypeError, ValueError: as for `dsa`.
    """
    _check("gradient", gradient, params)
    result: Tensor = torch.ops.ddfast.dsa_adjoint(gradient, params)
    return result


def _check(name: str, images: Tensor, params: Tensor) -> None:
    _checks.check_tensor(name, images, _FLOATS, (None, None, None, None))
    _checks.check_tensor("params", params, _PARAMS, (None, PARAMETERS))
    if len(params) not in (1, len(images)):
        raise ValueError(f"params: got {len(params)} rows, expected {len(images)} (one a picture) or 1")
    if params.requires_grad:
        raise ValueError("params: got a tensor that requires a gradient, expected none; call .detach()")
    _checks.check_device(images, params=params)


def _fake(images: Tensor, params: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(images)


def _native_call(adjoint: bool, images: Tensor, params: Tensor, addend: bool) -> Tensor:
    out = torch.empty_like(images)
    rows = params.to(torch.float64).contiguous()
    native: Any = _native.cpu()
    code = _native.DTYPE_CODES["float64" if images.dtype == torch.float64 else "float32"]
    native.dsa(
        adjoint, images.shape, code, images.data_ptr(), images.stride(), out.data_ptr(), out.stride(), rows.data_ptr(),
        len(rows), addend, torch.get_num_threads(),
    )  # fmt: skip
    return out


def _cpp(images: Tensor, params: Tensor, addend: bool) -> Tensor:
    return _native_call(False, images, params, addend)


def _cpp_adjoint(gradient: Tensor, params: Tensor) -> Tensor:
    return _native_call(True, gradient, params, False)


def _triton(images: Tensor, params: Tensor, addend: bool) -> Tensor:
    from ddfast.ops.dsa import triton_kernels

    result: Tensor = triton_kernels.dsa(images, params, addend)
    return result


def _triton_adjoint(gradient: Tensor, params: Tensor) -> Tensor:
    from ddfast.ops.dsa import triton_kernels

    result: Tensor = triton_kernels.dsa_adjoint(gradient, params)
    return result


def _cpp_rejects(images: Tensor, *_: Any) -> str:
    return "" if images.dtype in (torch.float32, torch.float64) else f"{images.dtype} is left to the reference"


def _triton_rejects(images: Tensor, *_: Any) -> str:
    if images.dtype == torch.float64:
        return "float64 is computed by the reference"
    return "" if images.shape[1] <= 16 else f"{images.shape[1]} channels are more than the 16 a program can hold"


DSA = _registry.define("dsa(Tensor images, Tensor params, bool addend) -> Tensor", reference.dsa, fake=_fake)
ADJOINT = _registry.define("dsa_adjoint(Tensor gradient, Tensor params) -> Tensor", reference.dsa_adjoint, fake=_fake)
DSA.add_backend("cpp", _cpp, rejects=_cpp_rejects)
DSA.add_backend("triton", _triton, rejects=_triton_rejects)
ADJOINT.add_backend("cpp", _cpp_adjoint, rejects=_cpp_rejects)
ADJOINT.add_backend("triton", _triton_adjoint, rejects=_triton_rejects)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _value_rule(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    return torch.ops.ddfast.dsa_adjoint(gradient, *ctx.saved_tensors), None, None


def _adjoint_rule(ctx: Any, tangent: Tensor) -> tuple[Tensor, None]:
    return torch.ops.ddfast.dsa(tangent, *ctx.saved_tensors, False), None


torch.library.register_autograd("ddfast::dsa", _value_rule, setup_context=_keep, lib=_registry._LIB)
torch.library.register_autograd("ddfast::dsa_adjoint", _adjoint_rule, setup_context=_keep, lib=_registry._LIB)
