"""Batch norm whose statistics are those of the rows of all ranks of a data-parallel training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase


class _OnGpu(nn.SyncBatchNorm):
    """torch's own; ``apart`` while every rank has the whole batch."""

    process_group = None  # all ranks
    apart = False

    def forward(self, x: Tensor) -> Tensor:
        return _BatchNorm.forward(self, x) if self.apart else super().forward(x)


class _OnCpu(_BatchNorm):
    """The same by plain sums, since torch has none for CPUs."""

    apart = False

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.apart or not self.training else self._together(x)

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"batch norm: got {x.ndim} dimensions, expected 2 or more")

    def _together(self, x: Tensor) -> Tensor:
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        here = wide.new_tensor([wide.numel() // wide.shape[1]])
        *sums, count = _Total.apply(torch.cat([wide.sum(dims), here])).split([wide.shape[1], 1])
        mean = sums[0] / count
        centred = wide - mean.view(shape)
        var = _Total.apply(centred.square().sum(dims)) / count
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(var * (count / (count - 1)), share)
        y: Tensor = centred * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)


class _Total(torch.autograd.Function):
    """Sum over the ranks; so is its gradient, since every rank's loss depends on it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return _Total.forward(ctx, gradient.contiguous())


@contextmanager
def whole_batch_norms(model: nn.Module) -> Iterator[list[nn.Module]]:
    """The batch norms of ``model``, which take the statistics of all ranks' rows within.

    They stay the same objects: the optimiser, the moving average and the model itself may hold them.

    Raises:
        ValueError: a layer whose statistics cannot be taken over several processes.
    """
    layers: list[Any] = []
    for name, layer in model.named_modules():
        if type(layer) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            layers.append(layer)
        elif isinstance(layer, _NormBase) and (isinstance(layer, _BatchNorm) or layer.track_running_stats):
            raise ValueError(
                f"data_parallel: layer {name!r} is a {type(layer).__name__}, whose statistics cannot be taken over "
                "several processes; expected BatchNorm1d to 3d, or instance norm without running statistics"
            )
    before = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = _OnGpu if next(model.parameters()).is_cuda else _OnCpu
    try:
        yield layers
    finally:
        for layer, kind in zip(layers, before, strict=True):
            layer.__class__ = kind
            layer.__dict__.pop("apart", None)
