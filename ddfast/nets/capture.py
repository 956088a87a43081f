"""Turns an observer into one flat graph of functional ATen calls with batch norm folded and a free batch size."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn

from .fold import fold_batch_norm
from .settings import torch_threads

aten = torch.ops.aten


EXPORT_ERRORS: tuple[type[Exception], ...] = (RuntimeError, ValueError, TypeError, AssertionError, AttributeError)
"""What torch.export raises for a module it cannot follow, besides its own subclasses of RuntimeError."""


class CaptureError(RuntimeError):
    """The module could not be turned into a graph; callers fall back to running it as it is."""


def _single_output(graph: fx.Graph) -> None:
    """Unwraps the one-element tuple that torch.export returns, so that the graph returns the logits themselves."""
    output = graph.output_node()
    value: Any = output.args[0]
    if isinstance(value, (tuple, list)):
        if len(value) != 1:
            raise CaptureError(f"the module returns {len(value)} values, expected the logits alone")
        output.args = (value[0],)
    # The pytree code generator of torch.export would wrap the output again.
    graph.set_codegen(fx.graph.CodeGen())


def _drop_bookkeeping(graph: fx.Graph) -> None:
    for node in reversed(list(graph.nodes)):
        bookkeeping = "assert" in str(node.target) or node.target is torch._check or str(node.target) == "_guards_fn"
        if bookkeeping and not node.users:
            graph.erase_node(node)


def _loosen_views(graph: fx.Graph) -> None:
    """``view`` was recorded for contiguous maps; on channels-last ones only ``reshape`` is valid."""
    for node in graph.nodes:
        if node.target in (aten.view.default, aten._unsafe_view.default):
            node.target = aten.reshape.default


def trace(module: nn.Module, canvas: int, dtype: torch.dtype = torch.float32) -> fx.GraphModule:
    """Graph of ``module`` in eval mode for inputs [n, 3, canvas, canvas] of ``dtype``, any n >= 1, nothing folded yet.

    It holds a copy of the weights, so later changes of the module do not show. Raises :class:`CaptureError` when
    ``torch.export`` cannot follow the module.
    """
    module = copy.deepcopy(module).to("cpu", dtype).eval().requires_grad_(False)
    sample = torch.zeros(2, 3, canvas, canvas, dtype=dtype)
    try:
        program = torch.export.export(
            module, (sample,), dynamic_shapes=({0: torch.export.Dim("n", min=1)},), strict=False
        )
        graph_module = program.run_decompositions({}).module(check_guards=False)
    except EXPORT_ERRORS as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise CaptureError(f"torch.export could not follow {type(module).__name__}: {reason}") from error
    if not isinstance(graph_module, fx.GraphModule):
        raise CaptureError(f"torch.export made a {type(graph_module).__name__}, expected a graph")
    flat = fx.GraphModule(graph_module, graph_module.graph)
    _drop_bookkeeping(flat.graph)
    _single_output(flat.graph)
    _loosen_views(flat.graph)
    return flat


def capture(
    module: nn.Module, canvas: int, dtype: torch.dtype = torch.float32, *, traced: fx.GraphModule | None = None
) -> fx.GraphModule:
    """The graph of :func:`trace` with batch norm folded in float64.

    ``traced``: a float32 trace of the same module and canvas, to spare the seconds of another one; it is copied.
    """
    if traced is None or (dtype != torch.float32 and _fixes_dtype(traced.graph)):
        flat = trace(module, canvas, dtype)
    else:
        flat = copy.deepcopy(traced).to(dtype)
    fold_batch_norm(flat)
    flat.graph.lint()
    flat.recompile()
    return flat


def _fixes_dtype(graph: fx.Graph) -> bool:
    """Whether a call names a dtype, which a cast of the weights would leave behind."""
    return any(isinstance(value, torch.dtype) for node in graph.nodes for value in (*node.args, *node.kwargs.values()))


def record(graph_module: fx.GraphModule, canvas: int) -> dict[str, Tensor]:
    """Every 4-D activation for the all-zero canvas, [1, C, H, W] by node name, in float64 where the graph allows it."""
    recorded: dict[str, Tensor] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor) and value.dim() == 4:
                recorded[n.name] = value.detach()
            return value

    try:
        wide = copy.deepcopy(graph_module).double()
        # one picture in float64: threads would mostly wait for each other
        with torch.no_grad(), torch_threads(1):
            Recorder(wide).run(torch.zeros(1, 3, canvas, canvas, dtype=torch.float64))
    except RuntimeError:  # a graph with a fixed float32 cast inside
        recorded.clear()
        with torch.no_grad(), torch_threads(1):
            Recorder(graph_module).run(torch.zeros(1, 3, canvas, canvas))
    return recorded
