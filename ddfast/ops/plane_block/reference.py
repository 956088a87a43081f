"""The definition of plane_block and its derivatives in plain torch; see the package's docstring for the formulas."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

Planes = tuple[Tensor, ...]


def compute_dtype(a: Tensor) -> torch.dtype:
    """What planes of a's type are computed in, and parameters and statistics are held in."""
    return torch.float64 if a.dtype == torch.float64 else torch.float32


def plane_block(a: Tensor, gamma: Tensor, beta: Tensor, pool: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """``(p, mean, rstd)``."""
    x = a.to(compute_dtype(a))
    mean = x.mean((2, 3))
    rstd = (x - _spread(mean)).square().mean((2, 3)).add(eps).rsqrt()
    hat = _hat(x, mean, rstd)
    z = hat * _rows(gamma, a) + _rows(beta, a)
    return _pooled(z.relu(), pool).to(a.dtype), mean, rstd


def backward(
    gp: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``(ga, ggamma, gbeta)``."""
    scale, hat, live = _state(a, mean, rstd, gamma, beta)
    gz = _spread_back(gp, a, pool) * live
    m1, m2 = _mean(gz), _mean(gz * hat)
    ga = scale * (gz - m1 - hat * m2)
    return ga.to(gp.dtype), per_model(_sum(gz * hat), gamma), per_model(_sum(gz), gamma)


def tangent(
    a: Tensor, da: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, dgamma: Tensor, dbeta: Tensor,
    pool: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """``(dp, dmean, cov)``."""
    _, hat, live = _state(a, mean, rstd, gamma, beta)
    d = da.to(hat.dtype)
    dmean, cov = _mean(d), _mean(hat * d)
    dhat = _spread(rstd) * (d - dmean - hat * cov)
    dz = (_rows(dgamma, a) * hat + _rows(gamma, a) * dhat + _rows(dbeta, a)) * live
    return _pooled(dz, pool).to(da.dtype), dmean[:, :, 0, 0], cov[:, :, 0, 0]


def tangent_backward(
    gp: Tensor, dgp: Tensor | None, a: Tensor, da: Tensor, mean: Tensor, rstd: Tensor, dmean: Tensor, cov: Tensor,
    gamma: Tensor, beta: Tensor, dgamma: Tensor, pool: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """``(ga, dga, dggamma, dgbeta)``."""
    scale, hat, live = _state(a, mean, rstd, gamma, beta)
    r, g, dg = _spread(rstd), _rows(gamma, a), _rows(dgamma, a)
    dhat = r * (da.to(hat.dtype) - _spread(dmean) - hat * _spread(cov))
    gz = _spread_back(gp, a, pool) * live
    dgz = torch.zeros_like(gz) if dgp is None else _spread_back(dgp, a, pool) * live
    gz_hat, dgz_hat = _mean(gz * hat), _mean(dgz * hat + gz * dhat)
    ga = scale * (gz - _mean(gz) - hat * gz_hat)
    inner = dg * gz + g * dgz
    dga = r * (inner - _mean(inner) - g * dhat * gz_hat - hat * (dg * gz_hat + g * dgz_hat)) - r * _spread(cov) * ga
    sums = _sum(dgz * hat + gz * dhat), _sum(dgz)
    return ga.to(da.dtype), dga.to(da.dtype), per_model(sums[0], gamma), per_model(sums[1], gamma)


def _state(a: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor) -> Planes:
    """r * gamma, the normalised planes, and where the ReLU lets through."""
    hat = _hat(a.to(mean.dtype), mean, rstd)
    rows = _rows(gamma, a)
    return _spread(rstd) * rows, hat, hat * rows + _rows(beta, a) > 0


def _hat(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (x - _spread(mean)) * _spread(rstd)


def _spread(statistic: Tensor) -> Tensor:
    return statistic[:, :, None, None]


def _rows(parameter: Tensor, a: Tensor) -> Tensor:
    """[C] or [M, C] to [N, C, 1, 1]: images of one model are neighbours."""
    rows = parameter if parameter.ndim == 2 else parameter[None]
    return rows.repeat_interleave(a.shape[0] // max(len(rows), 1), 0)[:, :, None, None]


def per_model(sums: Tensor, parameter: Tensor) -> Tensor:
    """Sums [N, C] of each image to those of each model, in the parameter's shape."""
    rows = parameter.shape[0] if parameter.ndim == 2 else 1
    return sums.reshape(rows, -1, sums.shape[1]).sum(1).reshape(parameter.shape)


def _pooled(z: Tensor, pool: bool) -> Tensor:
    return F.avg_pool2d(z, 2) if pool else z


def _spread_back(gp: Tensor, a: Tensor, pool: bool) -> Tensor:
    """The adjoint of the pooling."""
    g = gp.to(compute_dtype(a))
    if not pool:
        return g
    g = (g * 0.25).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return F.pad(g, (0, a.shape[3] - g.shape[3], 0, a.shape[2] - g.shape[2]))


def _mean(planes: Tensor) -> Tensor:
    return planes.mean((2, 3), keepdim=True)


def _sum(planes: Tensor) -> Tensor:
    return planes.sum((2, 3))
