"""plane_block by the native modules: C++ on CPU tensors, CUDA C++ on CUDA tensors; planes channels-last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _registry
from ddfast.ops.plane_block import layout, reference

_VALUE, _BACKWARD, _TANGENT, _TANGENT_BACKWARD = range(4)


def rejects(place: int) -> Callable[..., str]:
    """Why arguments are left to the reference, for an op whose argument ``place`` is the planes a."""

    def why(*args: Any) -> str:
        a = args[place]
        changes = {x.dtype for i, x in enumerate(args) if isinstance(x, Tensor) and x.ndim == 4 and i != place}
        if a.dtype == torch.float64:
            return "float64 planes are left to the reference"
        if len(changes) > 1 or (changes and next(iter(changes)) not in (a.dtype, torch.bfloat16)):
            return f"planes of {a.dtype} with derivatives of {', '.join(map(str, changes))} are left to the reference"
        lanes = _lanes(a.device.type)
        return f"{a.shape[1]} channels are no multiple of {lanes}" if a.shape[1] % lanes else ""

    return why


def value(a: Tensor, gamma: Tensor, beta: Tensor, pool: bool, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """See the reference."""
    p, mean, rstd = layout.pooled(a, pool, a.dtype), layout.statistic(a), layout.statistic(a)
    _launch(_VALUE, a, gamma, pool, eps, {"a": a, "gamma": gamma, "beta": beta, "p": p, "mean": mean, "rstd": rstd})
    return p, mean, rstd


def backward(
    gp: Tensor, a: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, pool: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """See the reference."""
    ga, sums = layout.planes(a, gp.dtype), {name: layout.statistic(a) for name in ("ggamma", "gbeta")}
    given = {"gp": gp, "a": a, "mean": mean, "rstd": rstd, "gamma": gamma, "beta": beta}
    _launch(_BACKWARD, a, gamma, pool, 0.0, {**given, **sums, "ga": ga})
    return ga, reference.per_model(sums["ggamma"], gamma), reference.per_model(sums["gbeta"], gamma)


def tangent(
    a: Tensor, da: Tensor, mean: Tensor, rstd: Tensor, gamma: Tensor, beta: Tensor, dgamma: Tensor, dbeta: Tensor,
    pool: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """See the reference."""
    dp, dmean, cov = layout.pooled(a, pool, da.dtype), layout.statistic(a), layout.statistic(a)
    given = {"a": a, "da": da, "mean": mean, "rstd": rstd, "gamma": gamma, "beta": beta, "dgamma": dgamma}
    _launch(_TANGENT, a, gamma, pool, 0.0, {**given, "dbeta": dbeta, "dp": dp, "dmean": dmean, "cov": cov})
    return dp, dmean, cov


def tangent_backward(
    gp: Tensor, dgp: Tensor | None, a: Tensor, da: Tensor, mean: Tensor, rstd: Tensor, dmean: Tensor, cov: Tensor,
    gamma: Tensor, beta: Tensor, dgamma: Tensor, pool: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See the reference."""
    ga, dga = layout.planes(a, da.dtype), layout.planes(a, da.dtype)
    sums = {name: layout.statistic(a) for name in ("ggamma", "gbeta")}
    given = {"gp": gp, "dgp": dgp, "a": a, "da": da, "mean": mean, "rstd": rstd, "dmean": dmean, "cov": cov}
    given |= {"gamma": gamma, "beta": beta, "dgamma": dgamma}
    _launch(_TANGENT_BACKWARD, a, gamma, pool, 0.0, {**given, **sums, "ga": ga, "dga": dga})
    return ga, dga, reference.per_model(sums["ggamma"], gamma), reference.per_model(sums["gbeta"], gamma)


def _lanes(device: str) -> int:
    """Channels are taken in groups of this many."""
    module = _native.cpu()
    if device == "cuda":
        return 4
    return 8 if module is not None and module.isa() == "v3" else 16


def _launch(method: int, a: Tensor, gamma: Tensor, pool: bool, eps: float, tensors: dict[str, Tensor | None]) -> None:
    cuda = a.device.type == "cuda"
    module = _native.cuda() if cuda else _native.cpu()
    if module is None:
        raise _registry.BackendError(f"plane_block: {_native.why_missing('_cuda' if cuda else '_cpu')}")
    n, c, h, w = a.shape
    models = gamma.shape[0] if gamma.ndim == 2 else 1
    change = next((tensors[name] for name in ("gp", "da") if tensors.get(name) is not None), None)
    codes = [_code(a), _code(a if change is None else change)]
    kept = {name: _in_order(value) for name, value in tensors.items() if value is not None}
    addresses = {name: value.data_ptr() for name, value in kept.items()}
    given = (method, (n, h, w, c, max(n // models, 1)), pool, codes, eps, addresses)
    if not cuda:
        module.plane_block(*given, torch.get_num_threads())
        return
    with torch.cuda.device(a.device):
        module.plane_block(*given, torch.cuda.current_stream().cuda_stream)


def _code(value: Tensor) -> int:
    return _native.DTYPE_CODES[str(value.dtype).removeprefix("torch.")]


def _in_order(value: Tensor) -> Tensor:
    """Planes channels-last, the rest row by row, for GPUs at 16 bytes; results are so and come back as they are."""
    value = value.contiguous(memory_format=torch.channels_last if value.ndim == 4 else torch.contiguous_format)
    return value.clone() if value.data_ptr() % 16 and value.device.type == "cuda" else value
