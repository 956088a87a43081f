"""Plain-torch definition of mmd, its gradient and the gradient's own gradient, a few classes at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Bytes of features copied at a time; their distances take less.
_PART_BYTES = 64 << 20


def mmd(x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool, wanted: int) -> tuple[Tensor, Tensor]:
    """Values [C], and matrices L [C, rows, n + m] whose product with the points [x; y] is the gradient.

    See :func:`ddfast.ops.mmd.mmd`. ``wanted``: 0 for the values alone (no rows), 1 for the gradient in x (n rows), 2
    for that in both (n + m rows). L is a Laplacian: with ``V_ij = 4 A_ij k'(|z_i - z_j|**2)``, A the weight of a pair,
    it is ``diag(V 1) - V``; its rows sum to zero, so that it may be applied to points moved by any constant.
    """
    n, m = x.shape[1], y.shape[1]
    kept = (0, n, n + m)[wanted]
    value, weights = torch.empty_like(sigmas[:, 0]), torch.empty_like(sigmas[:, :1, None].expand(-1, kept, n + m))
    pairs = pair_weights(n, m, unbiased, real_term, sigmas)
    once = pairs.triu().mul_(2)  # each pair of points once
    rows = n + m if real_term or wanted == 2 else n
    diagonal = 0.0 if unbiased else (1 / n + (1 / m if real_term else 0.0)) * sigmas.shape[1]
    for part in _parts(x, y):
        z = centred(x[part], y[part])
        squares = squared_distances(z[:, :rows], z)
        kernel, slope = derivatives(squares, sigmas[part], 2)
        value[part] = (once[:rows] * kernel).sum((1, 2)) + diagonal
        if wanted:
            weights[part] = laplacian(4 * pairs[:kept] * slope[:, :kept])
    return value, weights


def backward(
    upstream: Tensor, weights: Tensor, x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool, real_term: bool,
    both: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """``upstream`` [C] times the gradients in x, and in y if ``both``; the other arguments are for its own gradient."""
    n = x.shape[1]
    grad_x, grad_y = torch.empty_like(x), torch.empty_like(y) if both else y.new_empty(0)
    for part in _parts(x, y):
        grad = upstream[part, None, None] * (weights[part] @ centred(x[part], y[part]))
        grad_x[part] = grad[:, :n].to(x.dtype)
        if both:
            grad_y[part] = grad[:, n:].to(y.dtype)
    return grad_x, grad_y


def double_backward(
    vector_x: Tensor, vector_y: Tensor, upstream: Tensor, x: Tensor, y: Tensor, sigmas: Tensor, unbiased: bool,
    real_term: bool, both: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of ``<vector, backward(...)>`` in ``upstream`` [C], x, and y if ``both``.

    With v the vector and ``T_ij = 4 A_ij k''(|z_i - z_j|**2) 2 <z_i - z_j, v_i - v_j>``, the Hessian times v is
    ``L(V) v + L(T) z``.
    """
    n = x.shape[1]
    pairs = 4 * pair_weights(n, y.shape[1], unbiased, real_term, sigmas)
    slopes, out_x, out_y = torch.empty_like(upstream), torch.empty_like(x), torch.empty_like(y if both else vector_y)
    for part in _parts(x, y):
        z = centred(x[part], y[part])
        v = torch.cat([widen(vector_x[part]), widen(vector_y[part]) if both else torch.zeros_like(z[:, n:])], 1)
        _, slope, curvature = derivatives(squared_distances(z, z), sigmas[part], 3)
        cross = z @ v.mT
        own = cross.diagonal(dim1=1, dim2=2)
        change = 2 * (own[:, :, None] + own[:, None, :] - cross - cross.mT)
        first = laplacian(pairs * slope)
        slopes[part] = (v * (first @ z)).sum((1, 2))
        product = upstream[part, None, None] * (first @ v + laplacian(pairs * curvature * change) @ z)
        out_x[part] = product[:, :n].to(x.dtype)
        if both:
            out_y[part] = product[:, n:].to(y.dtype)
    return slopes, out_x, out_y


def pair_weights(n: int, m: int, unbiased: bool, real_term: bool, like: Tensor) -> Tensor:
    """A [n + m, n + m]: symmetric, zero on the diagonal."""
    own, real = (1 / (k * (k - 1) if unbiased else k * k) if k > 1 else 0.0 for k in (n, m))
    pairs = like.new_full((n + m, n + m), -1 / (n * m))
    pairs[:n, :n] = own
    pairs[n:, n:] = real if real_term else 0.0
    return pairs.fill_diagonal_(0.0)


def centred(x: Tensor, y: Tensor) -> Tensor:
    """The points [C, n + m, d], less the mean of y: distances stay, their squares' cancellation does not."""
    z = torch.cat([widen(x), widen(y)], 1)
    return z.sub_(z[:, x.shape[1] :].mean(1, keepdim=True))


def squared_distances(rows: Tensor, points: Tensor) -> Tensor:
    """[C, r, p] between two sets of points."""
    norms = (each.square().sum(2) for each in (rows, points))
    return torch.baddbmm(next(norms)[:, :, None] + next(norms)[:, None, :], rows, points.mT, alpha=-2).clamp_(min=0)


def derivatives(squares: Tensor, sigmas: Tensor, orders: int) -> list[Tensor]:
    """The kernel of squared distances [C, r, p] and its first derivatives with respect to them."""
    sums = [torch.zeros_like(squares) for _ in range(orders)]
    for sigma in sigmas[:, :, None, None].unbind(1):
        rate = -0.5 / sigma.square()
        term = (rate * squares).exp_()
        for total in sums:
            total += term
            term = term * rate
    return sums


def laplacian(edges: Tensor) -> Tensor:
    """diag(E 1) - E of the first rows of symmetric matrices."""
    out = -edges
    out.diagonal(dim1=1, dim2=2).add_(edges.sum(2))
    return out


def widen(tensor: Tensor) -> Tensor:
    """float64 stays, everything else is computed in float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _parts(x: Tensor, y: Tensor) -> Iterator[slice]:
    each = (x.shape[1] + y.shape[1]) * x.shape[2] * (8 if x.dtype == torch.float64 else 4)
    step = max(_PART_BYTES // each, 1)
    for start in range(0, len(x), step):
        yield slice(start, min(start + step, len(x)))


def pair_distances(x: Tensor, y: Tensor) -> Tensor:
    """[C, pairs] between different points of [x; y]."""
    points = x.shape[1] + y.shape[1]
    first, second = torch.triu_indices(points, points, 1, device=x.device)
    out = x.new_empty((len(x), len(first)), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32)
    for part in _parts(x, y):
        z = centred(x[part], y[part])
        out[part] = squared_distances(z, z)[:, first, second].sqrt_()
    return out
