"""Constant-frame skip: logits of a small patch on a constant canvas without computing what the patch cannot change.

RDED scores a p x p patch in the middle of an S x S canvas that is zero after normalisation. Outside the cone that the
patch can influence every activation is that of the empty canvas, so only the cone is computed. The result equals the
padded forward up to the order of floating-point sums. With patch 112 on canvas 224 a ResNet-18 needs 74.9 % of its
multiplications.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .capture import CaptureError, aten, capture, record
from .frame_rules import RULES, Context
from .frames import Frame, Target, zero
from .settings import torch_threads
from .windows import Span, Window, share


@dataclass(frozen=True)
class LayerWindow:
    """Active (height, width) of a convolution's output next to the full one."""

    name: str
    active: tuple[int, int]
    full: tuple[int, int]


@dataclass(frozen=True)
class FrameReport:
    """What the skip saves: multiply-accumulates per image with the whole canvas and with the active part alone."""

    macs_total: int
    macs_active: int
    layers: tuple[LayerWindow, ...]
    messages: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the multiplications still done, in (0, 1]."""
        return self.macs_active / self.macs_total if self.macs_total else 1.0


class Padded(nn.Module):
    """The plain way: pads patches [n, 3, p, p] with zeros to the canvas and runs the module."""

    def __init__(self, module: nn.Module, patch: int, canvas: int) -> None:
        super().__init__()
        before, after = frame_of(patch, canvas)
        self.module, self.amounts = module, (before, after, before, after)

    def forward(self, patches: Tensor) -> Tensor:
        padded = F.pad(patches, self.amounts) if any(self.amounts) else patches
        logits: Tensor = self.module(padded)
        return logits


def frame_of(patch: int, canvas: int) -> tuple[int, int]:
    """Rows of canvas before and after a centred patch: floor((S - p) / 2) before."""
    if not 0 < patch <= canvas:
        raise ValueError(f"patch: got {patch} on a canvas of {canvas}, expected 0 < patch <= canvas")
    before = (canvas - patch) // 2
    return before, canvas - patch - before


def layer_name(node: fx.Node) -> str:
    """The module path of a captured node, such as ``layer1.0.conv1``; the node's own name where there is none."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(entry[0]) for entry in stack.values() if isinstance(entry, Sequence)]
    return paths[-1] if paths and paths[-1] else node.name


def dtype_of(module: nn.Module) -> torch.dtype:
    """Floating dtype of the first parameter or buffer of ``module``; float32 where it has none."""
    tensors = (t for group in (module.parameters(), module.buffers()) for t in group)
    return next((t.dtype for t in tensors if t.is_floating_point()), torch.float32)


def count_macs(module: nn.Module, side: int) -> int:
    """Multiply-accumulates of one [1, 3, side, side] forward (convolutions, matrix products, attention).

    Counted on shapes alone; a module whose shapes depend on values is run.
    """
    from torch._subclasses import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode  # imports Triton where it is installed

    def count(mode: contextlib.AbstractContextManager[Any]) -> int:
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), mode, counter:
            module(torch.zeros(1, 3, side, side, dtype=dtype_of(module)))
        return int(counter.get_total_flops()) // 2

    try:
        return count(FakeTensorMode(allow_non_fake_inputs=True))
    except (RuntimeError, TypeError):
        return count(torch_threads(1))


class _Builder:
    """Walks the source graph once and writes the graph over active windows."""

    def __init__(self, source: fx.GraphModule, recorded: dict[str, Tensor], style: str, stop_share: float) -> None:
        self.module = fx.GraphModule(source, fx.Graph())
        for name, tensor in [*source.named_parameters(), *source.named_buffers()]:
            _copy_attribute(self.module, name, tensor)
        target = Target(self.module, dtype_of(source), style)
        self.ctx = Context(source, recorded, target)
        self.stop_share = stop_share
        self.layers: list[LayerWindow] = []
        self.messages: list[str] = []

    def build(self, window: Window) -> fx.GraphModule:
        for node in self.ctx.source.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, window)
            elif not self._partial(node):
                self._whole(node)
        self.module.graph.eliminate_dead_code()
        self.module.graph.lint()
        return fx.GraphModule(self.module, self.module.graph)

    def _placeholder(self, node: fx.Node, window: Window) -> None:
        made = self.module.graph.placeholder("patches")
        size = window[0].size
        const = torch.zeros(1, 3, size, size, dtype=next(iter(self.ctx.recorded.values())).dtype)
        self.ctx.frames[node] = Frame(self.ctx.target, node, const, window, lambda wanted: (made, zero(wanted)))

    def _partial(self, node: fx.Node) -> bool:
        """Handles ``node`` on the active window alone; False when it needs the whole canvas (or no canvas at all)."""
        if not any(source in self.ctx.frames for source in node.all_input_nodes):
            return False
        if node.target == aten.sym_size.int and node.args[1] != 0:
            return False
        if node.target == aten.sym_size.int:
            data = self.ctx.frames[node.args[0]].deviation()  # type: ignore[index]
            self.ctx.env[node] = self.ctx.target.call(aten.sym_size.int, data, 0)
            return True
        rule = RULES.get(node.target)
        frame = rule(self.ctx, node) if rule is not None else None
        if frame is None or share(frame.window) >= self.stop_share:
            self._note(node, "the map is whole from here on" if rule is not None else "no rule for it")
            return False
        self.ctx.frames[node] = frame
        self._record_layer(node, frame.window)
        return True

    def _whole(self, node: fx.Node) -> None:
        if node.op == "call_function" and node.target == aten.conv2d.default:
            self._record_layer(node, None)
        self.ctx.env[node] = self.module.graph.node_copy(node, self._node)

    def _node(self, source: fx.Node) -> fx.Node:
        frame = self.ctx.frames.get(source)
        return self.ctx.env[source] if frame is None else frame.full()

    def _record_layer(self, node: fx.Node, window: Window | None) -> None:
        const = self.ctx.recorded.get(node.name)
        if node.target != aten.conv2d.default or const is None:
            return
        full = (int(const.shape[2]), int(const.shape[3]))
        active = full if window is None else (len(window[0]), len(window[1]))
        self.layers.append(LayerWindow(layer_name(node), active, full))

    def _note(self, node: fx.Node, why: str) -> None:
        if not self.messages:
            op = str(node.target).removeprefix("aten.").split(".")[0]
            self.messages.append(f"whole canvas from {layer_name(node)} ({op}) on: {why}")


def _copy_attribute(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Puts ``tensor`` at the dotted ``name`` of ``module``; the copy shares the storage."""
    *parents, leaf = name.split(".")
    for part in parents:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if not hasattr(module, leaf):
        module.register_buffer(leaf, tensor.detach())


def skip_frame(
    source: fx.GraphModule, *, patch: int, canvas: int, style: str = "clamp", stop_share: float = 1.0
) -> tuple[fx.GraphModule, FrameReport]:
    """Rewrites a captured graph so that it takes bare patches [n, 3, p, p] and computes only what they can change.

    ``style`` writes a ReLU of a deviation as one clamp with tensor bounds ("clamp", best in eager torch) or as the
    ReLU itself followed by an add per channel ("shift", which OpenVINO and oneDNN fuse into the convolution).
    ``stop_share``: completes the canvas as soon as a map's active share of its area reaches this number; 1 skips as
    long as anything can be skipped. Raises ValueError for an impossible patch.
    """
    if style not in ("clamp", "shift"):
        raise ValueError(f"style: got {style!r}, expected 'clamp' or 'shift'")
    before, after = frame_of(patch, canvas)
    total = count_macs(source, canvas)
    if before == 0 and after == 0:
        return source, FrameReport(total, total, (), ("the patch fills the canvas: nothing to skip",))
    span = Span(before, before + patch, canvas)
    builder = _Builder(source, record(source, canvas), style, stop_share)
    built = builder.build((span, span))
    report = FrameReport(total, count_macs(built, patch), tuple(builder.layers), tuple(builder.messages))
    return built, report


def constant_frame_module(
    module: nn.Module, *, patch: int, canvas: int, dtype: torch.dtype = torch.float32, style: str = "clamp"
) -> tuple[nn.Module, FrameReport]:
    """Module that maps bare patches [n, 3, p, p] (``dtype``) to the logits of the padded canvas, and what it saves.

    The patch sits at row and column floor((S - p) / 2) of an all-zero S x S canvas. Falls back to plain padding, with
    a message, when the module's graph cannot be captured.
    """
    frame_of(patch, canvas)
    try:
        return skip_frame(capture(module, canvas, dtype), patch=patch, canvas=canvas, style=style)
    except CaptureError as error:
        plain = copy.deepcopy(module).to("cpu", dtype).eval()
        total = count_macs(plain, canvas)
        return Padded(plain, patch, canvas), FrameReport(total, total, (), (f"plain padding: {error}",))
