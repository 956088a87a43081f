"""One training step as one CUDA graph: forward, loss, backward and optimiser launched with a single call.

It pays where a step is bound by launches: small networks and batches (a ResNet-18 step of 100 small pictures has some
hundreds of kernels of a few microseconds each).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ddfast.train.objective import Objective

WARM_UP = 3  # eager steps before the capture: cuDNN chooses algorithms, the optimiser makes its state


class EagerStep:
    """Loss (scalar, or one for each of several models), backward and optimiser step; returns the loss, detached."""

    def __init__(
        self, objective: Objective, optimizer: torch.optim.Optimizer, device: torch.device, *, bf16: bool
    ) -> None:
        self._objective, self._optimizer, self._device, self._bf16 = objective, optimizer, device, bf16

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        # without its cache, autocast casts the weights inside a captured graph, where they are read anew each time
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16, cache_enabled=False):
            loss = self._objective.loss(*tensors)
        self._optimizer.zero_grad(set_to_none=True)
        loss.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()


class CapturedStep:
    """`EagerStep` that replays a CUDA graph for batches of the shape seen first; others run eagerly.

    Nothing is trained twice: the first steps are real ones, on the side stream that capturing asks for, and the capture
    itself executes nothing. The optimiser must be capturable (`make_optimizer`).
    """

    def __init__(self, eager: Callable[[tuple[Tensor, ...]], Tensor], device: torch.device) -> None:
        self._eager, self._stream = eager, torch.cuda.Stream(device)
        self._graph = torch.cuda.CUDAGraph()
        self._inputs: tuple[Tensor, ...] = ()
        self._loss: Tensor | None = None
        self._warm = 0

    def __call__(self, tensors: tuple[Tensor, ...]) -> Tensor:
        if not self._inputs:
            self._inputs = tuple(value.clone() for value in tensors)
        if [value.shape for value in tensors] != [value.shape for value in self._inputs]:
            return self._eager(tensors)
        for own, value in zip(self._inputs, tensors, strict=True):
            own.copy_(value, non_blocking=True)
        if self._warm < WARM_UP:
            self._warm += 1
            return self._aside()
        if self._loss is None:
            with torch.cuda.graph(self._graph):
                self._loss = self._eager(self._inputs)
        self._graph.replay()
        return self._loss

    def _aside(self) -> Tensor:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            loss = self._eager(self._inputs)
        torch.cuda.current_stream().wait_stream(self._stream)
        return loss
