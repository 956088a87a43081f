"""Maximum mean discrepancy of two sets of features, class by class, with a sum of Gaussian kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast.ops import _registry
from ddfast.ops._checks import check_device, check_tensor
from ddfast.ops.mmd import native, reference

__all__ = ["MMD_BANDWIDTHS", "mmd", "mmd_median"]

MMD_BANDWIDTHS = (1.0, 2.0, 4.0, 8.0, 16.0)  # of the paper; for features whose distances are near 16
_MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)
_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def mmd(
    x: Tensor,
    y: Tensor,
    sigmas: Tensor | Sequence[float] = MMD_BANDWIDTHS,
    *,
    unbiased: bool = True,
    real_term: bool = True,
) -> Tensor:
    """Squared maximum mean discrepancy of points x and y, of every class by itself.

    With ``k(a, b) = sum_s exp(-|a - b|**2 / (2 s**2))``, for each class

        1 / (n (n-1)) sum_{i != j} k(x_i, x_j) + 1 / (m (m-1)) sum_{i != j} k(y_i, y_j)
            - 2 / (n m) sum_ij k(x_i, y_j)

    the unbiased estimate of Gretton et al., "A Kernel Two-Sample Test", JMLR 2012; it may be negative. With
    ``unbiased=False`` the sums take i = j too, over n**2 and m**2. Bandwidths as in D3 (arXiv 2403.00999).

    Differentiable twice in x and y, not in ``sigmas``. Distances are those of points moved by their class's mean (or of
    differences), so that what all points share does no harm. bfloat16 and float16 points are computed in float32.

    Args:
        x: float32, float64, bfloat16 or float16 [C, n, d], in D3 the features of decoded images.
        y: of the same type, [C, m, d], the features of real images.
        sigmas: positive bandwidths, [k] for all classes or [C, k]; see also `mmd_median`.
        unbiased: see above.
        real_term: False leaves the sum over pairs of y out (a constant where y is data, a third of the work); the
            gradient in y is then that of the other two.

    Returns:
        [C], float32 (float64 for float64 points).

    Raises:
        TypeError, ValueError: wrong type, shape or device; fewer than two points of a class where the unbiased sum
            needs them, none otherwise; (CPU only) bandwidths that are not positive.
    """
    check_tensor("x", x, _FLOATS, (None, None, None))
    check_tensor("y", y, x.dtype, (x.shape[0], None, x.shape[2]))
    check_device(x, y=y)
    _check_count("x", x, 2 if unbiased else 1)
    _check_count("y", y, 2 if unbiased and real_term else 1)
    widths = _bandwidths(sigmas, x)
    recording = torch.is_grad_enabled()
    wanted = 2 if recording and y.requires_grad else 1 if recording and x.requires_grad else 0
    value: Tensor = torch.ops.ddfast.mmd(x, y, widths, unbiased, real_term, wanted)[0]
    return value


def mmd_median(x: Tensor, y: Tensor, multiples: Sequence[float] = _MULTIPLES, *, per_class: bool = True) -> Tensor:
    """Bandwidths by the median heuristic: multiples of the median distance between two points.

    ``s = multiple * median{|a - b|}`` over the pairs of different points of [x; y] in the same class (of an even number
    the lower middle one); over the pairs of one class, or of all together. Where more than half of the points are the
    same, the mean stands for the median, and 1 where all are. Not differentiated.

    Gretton et al., JMLR 2012; Garreau et al., "Large Sample Analysis of the Median Heuristic" (arXiv 1707.07269).

    Args:
        x, y: as for `mmd`.
        multiples: k positive numbers.
        per_class: one median for each class, or one for all.

    Returns:
        [C, k], or [k] for one for all; float32 (float64 for float64 points).

    Raises:
        TypeError, ValueError: wrong type, shape or device; fewer than two points.
    """
    check_tensor("x", x, _FLOATS, (None, None, None))
    check_tensor("y", y, x.dtype, (x.shape[0], None, x.shape[2]))
    check_device(x, y=y)
    if not multiples or not all(0 < each < float("inf") for each in multiples):
        raise ValueError(f"multiples: got {tuple(multiples)!r}, expected one or more positive numbers")
    points = x.shape[1] + y.shape[1]
    if points < 2 or (not len(x) and not per_class):
        raise ValueError(f"x, y: got shapes {tuple(x.shape)} and {tuple(y.shape)}, expected two points or more")
    with torch.no_grad():
        distances = reference.pair_distances(x, y)
        distances = distances if per_class else distances.flatten()
        middle, mean = distances.median(-1).values, distances.mean(-1)
        middle = torch.where(middle > 0, middle, torch.where(mean > 0, mean, 1.0))
        return middle[..., None] * middle.new_tensor(list(multiples))


def _check_count(name: str, points: Tensor, fewest: int) -> None:
    if points.shape[1] < fewest:
        raise ValueError(
            f"{name}: got {points.shape[1]} points of each class, expected {fewest} or more"
            + (" for an unbiased estimate; take more, or unbiased=False" if points.shape[1] else "")
        )
    if not points.shape[2]:
        raise ValueError(f"{name}: got shape {tuple(points.shape)}, expected one feature or more")


def _bandwidths(sigmas: Tensor | Sequence[float], x: Tensor) -> Tensor:
    """[C, k] in the type of the arithmetic."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if not isinstance(sigmas, Tensor):
        positive = all(0 < each < float("inf") for each in sigmas)
        sigmas = torch.tensor(list(sigmas), dtype=dtype, device=x.device)
    else:
        if sigmas.requires_grad:
            raise ValueError("sigmas: got a tensor that requires a gradient, expected none; call .detach()")
        unread = sigmas.device.type != "cpu" or torch.compiler.is_compiling()
        positive = unread or bool(((sigmas > 0) & sigmas.isfinite()).all())
    check_tensor("sigmas", sigmas, _FLOATS, (None,) if sigmas.ndim == 1 else (x.shape[0], None))
    check_device(x, sigmas=sigmas)
    if not sigmas.shape[-1]:
        raise ValueError("sigmas: got none, expected one bandwidth or more")
    if not positive:
        raise ValueError(f"sigmas: got {sigmas.tolist()}, expected positive numbers")
    return sigmas.to(dtype).expand(x.shape[0], sigmas.shape[-1]).contiguous()


def _fake(x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool, wanted: int) -> tuple[Tensor, Tensor]:
    n, points = x.shape[1], x.shape[1] + y.shape[1]
    return sigmas.new_empty(len(x)), sigmas.new_empty(len(x), (0, n, points)[wanted], points)


def _fake_backward(
    upstream: Tensor, weights: Tensor, x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool,
    both: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return torch.empty_like(x), torch.empty_like(y) if both else y.new_empty(0)


def _fake_double_backward(
    vector_x: Tensor, vector_y: Tensor, upstream: Tensor, x: Tensor, y: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(upstream), torch.empty_like(x), torch.empty_like(y if _[-1] else vector_y)


def _triton(*args: Any) -> tuple[Tensor, Tensor]:
    from ddfast.ops.mmd import triton_kernels

    return triton_kernels.mmd(*args)


def _triton_backward(*args: Any) -> tuple[Tensor, Tensor]:
    from ddfast.ops.mmd import triton_kernels

    return triton_kernels.backward(*args)


def _triton_rejects(x: Tensor, *_: Any) -> str:
    return "float64 is computed by the reference" if x.dtype == torch.float64 else ""


_POINTS = "Tensor x, Tensor y, Tensor sigmas, bool unbiased, bool real_term"
VALUE = _registry.define(f"mmd({_POINTS}, int wanted) -> (Tensor, Tensor)", reference.mmd, fake=_fake)
GRADIENT = _registry.define(
    f"mmd_backward(Tensor upstream, Tensor weights, {_POINTS}, bool both) -> (Tensor, Tensor)",
    reference.backward,
    fake=_fake_backward,
)
_registry.define(
    f"mmd_double_backward(Tensor vector_x, Tensor vector_y, Tensor upstream, {_POINTS}, bool both)"
    " -> (Tensor, Tensor, Tensor)",
    reference.double_backward,
    fake=_fake_double_backward,
)
VALUE.add_backend("cpp", native.value, rejects=native.rejects)
GRADIENT.add_backend("cpp", native.gradient, rejects=native.rejects_gradient)
VALUE.add_backend("triton", _triton, rejects=_triton_rejects)
GRADIENT.add_backend("triton", _triton_backward, rejects=lambda upstream, weights, *args: _triton_rejects(*args))


def _keep_value(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:3])
    ctx.options = inputs[3:5]
    ctx.wanted = inputs[5]
    ctx.mark_non_differentiable(output[1])


def _value_rule(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    both = ctx.wanted == 2
    grad_x, grad_y = torch.ops.ddfast.mmd_backward(upstream, *ctx.saved_tensors, *ctx.options, both)
    return grad_x, grad_y if both else None, None, None, None, None


def _keep_gradient(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], *inputs[2:5])
    ctx.options = inputs[5:]


def _gradient_rule(ctx: Any, vector_x: Tensor, vector_y: Tensor) -> tuple[Tensor | None, ...]:
    given = (*ctx.saved_tensors, *ctx.options)
    slopes, out_x, out_y = torch.ops.ddfast.mmd_double_backward(vector_x, vector_y, *given)
    return slopes, None, out_x, out_y if ctx.options[2] else None, None, None, None, None


for _name, _rule, _context in (("", _value_rule, _keep_value), ("_backward", _gradient_rule, _keep_gradient)):
    torch.library.register_autograd(f"ddfast::mmd{_name}", _rule, setup_context=_context, lib=_registry._LIB)
