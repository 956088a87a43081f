"""The block of the field's ConvNets after its convolution, with first and second derivatives, each in one pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ddfast.ops import _checks, _registry
from ddfast.ops.plane_block import layout, native, reference

_PLANES = (torch.float32, torch.bfloat16, torch.float64)


def plane_block(a: Tensor, gamma: Tensor, beta: Tensor, *, pool: bool = True, eps: float = 1e-5) -> Tensor:
    """Instance norm, affine, ReLU and 2x2 average pool of feature planes.

    With the mean and biased variance of each plane, ``r = 1 / sqrt(var + eps)``, ``ahat = (a - mean) * r``,
    ``z = gamma * ahat + beta``: ``p = avg_pool2d(relu(z), 2)``, an odd last row or column dropped by the pool only.

    Differentiable twice in all three arguments (not three times: the second derivative's rule raises). Its derivatives
    are ops of their own (``torch.ops.ddfast.plane_block_backward``, ``_tangent``, ``_tangent_backward``; m = [z > 0],
    up() the adjoint of the pool, mean() over a plane):

    * backward: ``gz = m up(gp)``, ``ggamma = sum gz ahat``, ``gbeta = sum gz``,
      ``ga = r (gamma gz - mean(gamma gz) - ahat mean(gamma gz ahat))``;
    * tangent along (da, dgamma, dbeta): ``cov = mean(ahat da)``, ``dahat = r (da - mean(da) - ahat cov)``,
      ``dp = pool(m (dgamma ahat + gamma dahat + dbeta))``;
    * tangent of backward, with ``dgz = m up(dgp)``, h = gamma gz and ``dh = dgamma gz + gamma dgz``:
      ``dggamma = sum(dgz ahat + gz dahat)``, ``dgbeta = sum dgz``,
      ``dga = r (dh - mean(dh) - dahat mean(h ahat) - ahat mean(dh ahat + h dahat)) - r cov ga``.

    The derivatives' planes may be bfloat16 beside float32 ``a`` (in the ops; results are of the type of what they are
    derivatives along or of), so that the ReLU's mask is exact where convolutions are not.

    ConvNet of DC, DSA, DM, MTT (Zhao et al., ICLR 2021; Cazenavette et al., CVPR 2022), without the convolution's bias,
    which the mean cancels.

    Args:
        a: float32, bfloat16 or float64 [N, C, H, W], fastest in channels-last order.
        gamma, beta: float32 (float64 for float64 planes) [C], or [M, C] for M models whose N / M images are neighbours.
        pool: False leaves the pool out.
        eps: added to the variance.

    Returns:
        [N, C, H // 2, W // 2], or [N, C, H, W] without pool, of a's type.

    Raises:
        TypeError, ValueError: wrong type, shape or device.
    """
    _checks.check_tensor("a", a, _PLANES, (None, None, None, None))
    n, c, h, w = a.shape
    if h * w == 0 or (pool and min(h, w) < 2):
        raise ValueError(f"a: got planes of {h} x {w}, expected at least {'2 x 2 to pool' if pool else 'one pixel'}")
    models = gamma.shape[0] if isinstance(gamma, Tensor) and gamma.ndim == 2 else None
    shape = (c,) if models is None else (models, c)
    for name, value in (("gamma", gamma), ("beta", beta)):
        _checks.check_tensor(name, value, reference.compute_dtype(a), shape)
    if models is not None and (models == 0 or n % models):
        raise ValueError(f"gamma: got {models} models for {n} images, expected a divisor of the number of images")
    _checks.check_device(a, gamma=gamma, beta=beta)
    result: Tensor = torch.ops.ddfast.plane_block(a, gamma, beta, pool, eps)[0]
    return result


def _fake_value(a: Tensor, gamma: Tensor, beta: Tensor, pool: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    return layout.pooled(a, pool, a.dtype), layout.statistic(a), layout.statistic(a)


def _fake_backward(gp: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, pool: bool) -> Any:
    return layout.planes(a, gp.dtype), torch.empty_like(gamma), torch.empty_like(gamma)


def _fake_tangent(a: Tensor, da: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return layout.pooled(a, rest[-1], da.dtype), layout.statistic(a), layout.statistic(a)


def _fake_tangent_backward(gp: Tensor, dgp: Tensor | None, a: Tensor, da: Tensor, *rest: Any) -> Any:
    gamma = rest[4]
    return layout.planes(a, da.dtype), layout.planes(a, da.dtype), torch.empty_like(gamma), torch.empty_like(gamma)


def _laid_out(run: Any) -> Any:
    """The reference with outputs in the layout that the fakes promise."""

    def wrapped(*args: Any) -> Any:
        return tuple(
            value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value for value in run(*args)
        )

    return wrapped


_P = "Tensor gamma, Tensor beta"
VALUE = _registry.define(
    f"plane_block(Tensor a, {_P}, bool pool, float eps) -> (Tensor, Tensor, Tensor)",
    _laid_out(reference.plane_block),
    fake=_fake_value,
)
BACKWARD = _registry.define(
    f"plane_block_backward(Tensor gp, Tensor a, Tensor mean, Tensor rstd, {_P}, bool pool) -> (Tensor, Tensor, Tensor)",
    _laid_out(reference.backward),
    fake=_fake_backward,
)
TANGENT = _registry.define(
    f"plane_block_tangent(Tensor a, Tensor da, Tensor mean, Tensor rstd, {_P}, Tensor dgamma, Tensor dbeta, "
    "bool pool) -> (Tensor, Tensor, Tensor)",
    _laid_out(reference.tangent),
    fake=_fake_tangent,
)
TANGENT_BACKWARD = _registry.define(
    "plane_block_tangent_backward(Tensor gp, Tensor? dgp, Tensor a, Tensor da, Tensor mean, Tensor rstd, "
    f"Tensor dmean, Tensor cov, {_P}, Tensor dgamma, bool pool) -> (Tensor, Tensor, Tensor, Tensor)",
    _laid_out(reference.tangent_backward),
    fake=_fake_tangent_backward,
)


for _op, _run, _place in (
    (VALUE, native.value, 0),
    (BACKWARD, native.backward, 1),
    (TANGENT, native.tangent, 0),
    (TANGENT_BACKWARD, native.tangent_backward, 2),
):
    for _name in ("cpp", "cuda"):
        _op.add_backend(_name, _run, rejects=native.rejects(_place))


def _keep_value(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    a, gamma, beta, ctx.pool, _ = inputs
    ctx.save_for_backward(a, output[1], output[2], gamma, beta)
    ctx.mark_non_differentiable(*output[1:])


def _value_rule(ctx: Any, gp: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    a, mean, rstd, gamma, beta = ctx.saved_tensors
    grads = torch.ops.ddfast.plane_block_backward(gp, a, mean, rstd, gamma, beta, ctx.pool)
    return (*grads, None, None)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.pool = inputs
    ctx.save_for_backward(*tensors)


def _backward_rule(ctx: Any, u: Tensor, ugamma: Tensor, ubeta: Tensor) -> tuple[Tensor | None, ...]:
    """backward is a gradient, so its adjoint is its tangent; mean and rstd count as functions of the planes."""
    gp, a, mean, rstd, gamma, beta = ctx.saved_tensors
    known = (a, u, mean, rstd)
    dp, dmean, cov = torch.ops.ddfast.plane_block_tangent(*known, gamma, beta, ugamma, ubeta, ctx.pool)
    _, dga, dggamma, dgbeta = torch.ops.ddfast.plane_block_tangent_backward(
        gp, None, *known, dmean, cov, gamma, beta, ugamma, ctx.pool
    )
    return dp, dga, None, None, dggamma, dgbeta, None


def _no_rule(ctx: Any, *_: Any) -> Any:
    raise RuntimeError("plane_block: is differentiable twice, not three times; detach one of the derivatives")


for _name, _rule, _keep in (
    ("plane_block", _value_rule, _keep_value),
    ("plane_block_backward", _backward_rule, _keep_backward),
    ("plane_block_tangent", _no_rule, None),
    ("plane_block_tangent_backward", _no_rule, None),
):
    torch.library.register_autograd(f"ddfast::{_name}", _rule, setup_context=_keep, lib=_registry._LIB)
