"""A trajectory-matching iteration as one CUDA graph: thousands of small kernels launched with a single call.

What an iteration draws (batches, augmentations) and is given (experts, images, labels, rate) is copied into buffers
that stay where they are; the graph reads nothing else, and nothing on the host depends on what is in them.

Replaying on a GPU has not been run yet: the tests replay through a stand-in on CPUs, trace the iteration with tensors
that have no data, and hold a comparison of a real graph with the eager iteration for machines with a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast.nets.flat_net import FlatNet
from ddfast.ops.dsa import PARAMETERS
from ddfast.train.adjoint.unroll import InnerStep, Match, match_trajectory

Outputs = tuple[Tensor, ...]
Recorder = Callable[[Callable[[], Outputs]], Callable[[], Outputs]]
WARM_UP = 2  # eager runs before the capture: kernels are compiled, cuDNN and cuBLAS choose algorithms
GRAPHS = 4  # each keeps the memory of an iteration


def cuda_graph(function: Callable[[], Outputs]) -> Callable[[], Outputs]:
    """Record what ``function`` launches; the result replays it and returns the same tensors, with new contents."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function()

    def replay() -> Outputs:
        graph.replay()
        return outputs

    return replay


class MatchGraphs:
    """`match_trajectory` with fixed options, replayed as a CUDA graph for images on a GPU; eager elsewhere.

    A graph serves calls of one shape: number and size of the batches, rows of augmentation, images, labels. Its memory
    stays reserved as long as this object lives (``memory="recompute"`` makes it small). After a call, `reason` says why
    it ran eagerly, "" if it did not.

    Args:
        net: the architecture.
        record: makes a graph of a function; None for `cuda_graph` on GPUs. For tests.
        options: of `match_trajectory`, except for ``trainable``.
    """

    def __init__(self, net: FlatNet, *, record: Recorder | None = None, **options: Any) -> None:
        self._net, self._options, self._record = net, options, record
        self._graphs: dict[tuple[Any, ...], _Iteration] = {}
        self._failure = ""
        self.reason = ""

    def __call__(
        self, start: Tensor, target: Tensor, images: Tensor, labels: Tensor, lr: Tensor | float,
        steps: Sequence[InnerStep], *, trainable: Tensor | None = None,
    ) -> Match:  # fmt: skip
        """As `match_trajectory`; the results are new tensors.

        Raises:
            ValueError: as `match_trajectory`.
        """
        self.reason = self._why_eager(images)
        if not self.reason:
            match = self._replayed(_inputs(start, target, images, labels, lr, steps, trainable), steps)
            if match is not None:
                return match
        return match_trajectory(
            self._net, start, target, images, labels, lr, steps, trainable=trainable, **self._options
        )

    def _why_eager(self, images: Tensor) -> str:
        if self._record is None and images.device.type != "cuda":
            return f"CUDA graphs need a CUDA device, the images are on {images.device}"
        if self._options.get("unroll") == "compile":
            return "unroll 'compile' launches its own graph"
        return self._failure

    def _replayed(self, inputs: dict[str, Tensor], steps: Sequence[InnerStep]) -> Match | None:
        """None, with a reason, where there is no graph for these shapes and none can be made."""
        key = _shape(inputs, steps)
        if key not in self._graphs:
            if len(self._graphs) >= GRAPHS:
                self.reason = f"there are graphs of {GRAPHS} other shapes already"
                return None
            iteration = _Iteration(self._net, inputs, steps, self._options)
            try:
                with torch.cuda.device_of(inputs["images"]):
                    iteration.record(self._record or cuda_graph)
            except RuntimeError as error:
                self._failure = self.reason = f"the capture failed: {error}"
                warnings.warn(f"trajectory matching goes on without a CUDA graph: {error}", RuntimeWarning, 3)
                return None
            self._graphs[key] = iteration
        return self._graphs[key].replay(inputs)


class _Iteration:
    """Buffers for the inputs of one shape, and the iteration that reads them and nothing else."""

    def __init__(
        self, net: FlatNet, inputs: dict[str, Tensor], steps: Sequence[InnerStep], options: dict[str, Any]
    ) -> None:
        self._net, self._options = net, options
        device = inputs["images"].device
        self.buffers = {name: value.to(device, copy=True) for name, value in inputs.items()}
        indices = self.buffers["index"].split([len(step.index) for step in steps])
        params = self.buffers["params"].split([step.rows for step in steps])
        self.steps = [
            InnerStep(index, rows if len(rows) else None) for index, rows in zip(indices, params, strict=True)
        ]
        self._replay: Callable[[], Outputs] | None = None

    def record(self, record: Recorder) -> None:
        self._replay = record(self.run)

    def run(self) -> Outputs:
        """Loss, gradients of images and rate, last theta, and the gradient of labels where there is one.

        Rows that are not trainable are masked at the end: which these are must not decide what is launched.
        """
        b = self.buffers
        match = match_trajectory(
            self._net, b["start"], b["target"], b["images"], b["labels"], b["lr"], self.steps, **self._options
        )
        images = match.images * b["trainable"][:, None, None, None] if "trainable" in b else match.images
        return (match.loss, images, match.lr, match.end, *([] if match.labels is None else [match.labels]))

    def replay(self, inputs: dict[str, Tensor]) -> Match:
        assert self._replay is not None
        for name, value in inputs.items():
            self.buffers[name].copy_(value, non_blocking=True)
        loss, images, lr, end, *labels = (each.clone() for each in self._replay())
        return Match(loss, images, lr, labels[0] if labels else None, end)


def _inputs(
    start: Tensor, target: Tensor, images: Tensor, labels: Tensor, lr: Tensor | float, steps: Sequence[InnerStep],
    trainable: Tensor | None,
) -> dict[str, Tensor]:  # fmt: skip
    """Everything an iteration reads, one tensor a kind; draws on the CPU as they come."""
    found = {"start": start, "target": target, "images": images, "labels": labels}
    found = {name: value.detach() for name, value in found.items()}
    found["lr"] = torch.as_tensor(lr, dtype=start.dtype, device=start.device).detach()
    found["index"] = torch.cat([step.index for step in steps]) if steps else labels.new_empty(0)
    rows = [each for each in (step.packed(images) for step in steps) if each is not None]
    found["params"] = torch.cat(rows) if rows else start.new_empty(0, PARAMETERS)
    if trainable is not None:
        found["trainable"] = trainable.to(images.dtype)
    return found


def _shape(inputs: dict[str, Tensor], steps: Sequence[InnerStep]) -> tuple[Any, ...]:
    tensors = tuple((name, value.shape, value.dtype, value.device) for name, value in inputs.items())
    return tensors, tuple((len(step.index), step.rows) for step in steps)
