"""One rule per ATen op: how a partial feature map passes through it. An op without a rule gets the whole canvas."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from .fold import constant
from .frames import Box, Frame, Target, box, collapse, united, zero
from .windows import Kernel, Window, is_empty, is_full, margins, union

aten = torch.ops.aten


class Context:
    """What a rule may look at: the source graph, the recorded activations, the frames made so far."""

    def __init__(self, source: fx.GraphModule, recorded: dict[str, Tensor], target: Target) -> None:
        self.source, self.recorded, self.target = source, recorded, target
        self.frames: dict[fx.Node, Frame] = {}
        self.env: dict[fx.Node, fx.Node] = {}

    def constant(self, node: object) -> Tensor | None:
        return constant(self.source, node)

    def frame(self, node: object) -> Frame | None:
        return self.frames.get(node) if isinstance(node, fx.Node) else None

    def background(self, node: fx.Node, window: Window) -> Tensor:
        """Recorded activation of ``node`` over ``window``, one number per channel where it is constant there."""
        (r0, r1), (c0, c1) = box(window)
        return collapse(self.recorded[node.name][:, :, r0:r1, c0:c1])

    def make(self, node: fx.Node, window: Window, emit: Callable[[Tensor], tuple[fx.Node, Tensor]]) -> Frame | None:
        """A frame for ``node``; None (no rule applies) when its window is empty, the whole map, or was not recorded."""
        const = self.recorded.get(node.name)
        if const is None or is_empty(window) or is_full(window):
            return None
        return Frame(self.target, node, const, window, emit)


Rule = Callable[[Context, fx.Node], "Frame | None"]
RULES: dict[Any, Rule] = {}


def rule(*ops: Any) -> Callable[[Rule], Rule]:
    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(ops, function))
        return function

    return register


def _pair(value: Any) -> tuple[int, int]:
    pair = [int(v) for v in value] if isinstance(value, (list, tuple)) else [int(value)]
    return (pair[0], pair[-1])


def _arguments(node: fx.Node, defaults: tuple[Any, ...]) -> tuple[Any, ...]:
    """Positional arguments of ``node`` completed by the op's defaults (fx leaves trailing defaults out)."""
    return (*node.args, *defaults[len(node.args) :])


def _slide(frame: Frame, out: Tensor, kernels: tuple[Kernel, Kernel]) -> tuple[Window, Box]:
    """Active output window of a sliding op, and the input area that it reads (may stick out of the map)."""
    rows, cols = (k.active(s, n) for k, s, n in zip(kernels, frame.window, out.shape[2:], strict=True))
    return (rows, cols), (kernels[0].read(rows), kernels[1].read(cols))


@rule(aten.conv2d.default)
def _conv(ctx: Context, node: fx.Node) -> Frame | None:
    x, weight, _, stride, padding, dilation, groups = _arguments(node, (None, None, None, 1, 0, 1, 1))
    frame, kernel = ctx.frame(x), ctx.constant(weight)
    if frame is None or kernel is None:
        return None
    sides = tuple(
        Kernel(int(kernel.shape[2 + i]), _pair(stride)[i], _pair(padding)[i], _pair(dilation)[i]) for i in (0, 1)
    )
    window, area = _slide(frame, ctx.recorded[node.name], (sides[0], sides[1]))
    if is_empty(window) or is_full(window):
        return None
    left, right, top, bottom = margins(frame.window, area)

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        data, inner = frame.deviation(), [0, 0]
        if top == bottom >= 0 and left == right >= 0:
            inner = [top, left]
        else:
            data = ctx.target.pad(data, (left, right, top, bottom))
        shift = wanted if wanted.shape[2:] == (1, 1) else zero(wanted)
        width = int(kernel.shape[0])
        bias = None if not bool(shift.any()) else ctx.target.constant(shift.reshape(-1).expand(width).clone())
        weights = ctx.env[weight]
        made = ctx.target.call(
            aten.conv2d.default, data, weights, bias, list(_pair(stride)), inner, list(_pair(dilation)), groups
        )
        return made, shift

    return ctx.make(node, window, emit)


def _pool_in(ctx: Context, frame: Frame, area: Box, kernels: tuple[Kernel, Kernel]) -> tuple[fx.Node, bool]:
    """Input of a max pooling over ``area``: (node, True) as deviation, (node, False) as value."""
    rows, cols = frame.window
    (r0, r1), (c0, c1) = area
    inside = ((max(r0, 0), min(r1, rows.size)), (max(c0, 0), min(c1, cols.size)))
    grown = tuple(
        (min(lo, s.lo), max(hi, s.hi)) for (lo, hi), s in zip(inside, frame.window, strict=True)
    )  # rows of the window that no output reads are cropped afterwards
    reach: Box = (grown[0], grown[1])
    if inside == area and frame.background(reach).shape[2:] == (1, 1):
        return ctx.target.pad(frame.deviation(), margins(frame.window, area)), True
    value = frame.value_on(reach)
    beyond = (reach[1][0] - c0, c1 - reach[1][1], reach[0][0] - r0, r1 - reach[0][1])
    return ctx.target.pad(value, beyond, -torch.inf), False


@rule(aten.max_pool2d.default)
def _max_pool(ctx: Context, node: fx.Node) -> Frame | None:
    x, size, stride, padding, dilation = _arguments(node, (None, None, None, 0, 1))[:5]
    frame = ctx.frame(x)
    if frame is None:  # ceil mode only matters for the output size, which was recorded
        return None
    stride = stride or size
    sides = [Kernel(_pair(size)[i], _pair(stride)[i], _pair(padding)[i], _pair(dilation)[i]) for i in (0, 1)]
    kernels = (sides[0], sides[1])
    window, area = _slide(frame, ctx.recorded[node.name], kernels)
    if is_empty(window) or is_full(window):
        return None

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        data, deviation = _pool_in(ctx, frame, area, kernels)
        made = ctx.target.call(
            aten.max_pool2d.default, data, list(_pair(size)), list(_pair(stride)), [0, 0], list(_pair(dilation))
        )
        return made, zero(wanted) if deviation else ctx.background(node, window)

    return ctx.make(node, window, emit)


@rule(aten.avg_pool2d.default)
def _avg_pool(ctx: Context, node: fx.Node) -> Frame | None:
    x, size, stride, padding, ceil_mode, counts_padding, divisor = _arguments(
        node, (None, None, None, 0, False, True, None)
    )
    frame = ctx.frame(x)
    if frame is None or divisor is not None:
        return None
    stride = stride or size
    sides = [Kernel(_pair(size)[i], _pair(stride)[i], _pair(padding)[i]) for i in (0, 1)]
    window, area = _slide(frame, ctx.recorded[node.name], (sides[0], sides[1]))
    inside = all(lo >= 0 and hi <= span.size for (lo, hi), span in zip(area, frame.window, strict=True))
    if not inside and (ceil_mode or not counts_padding):  # the divisor shrinks at the border: not linear in zeros
        return None

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        data = ctx.target.pad(frame.deviation(), margins(frame.window, area))
        return ctx.target.call(aten.avg_pool2d.default, data, list(_pair(size)), list(_pair(stride))), zero(wanted)

    return ctx.make(node, window, emit)


@rule(aten.pad.default, aten.constant_pad_nd.default)
def _pad(ctx: Context, node: fx.Node) -> Frame | None:
    frame, amounts = ctx.frame(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    mode, value = "constant", 0.0
    for extra in node.args[2:]:
        mode, value = (extra, value) if isinstance(extra, str) else (mode, float(extra or 0.0))  # type: ignore[arg-type]
    left, right, top, bottom = (*(int(a) for a in amounts), 0, 0)[:4]  # type: ignore[call-overload]
    plain = mode == "constant" and len(amounts) <= 4 and min(left, right, top, bottom) >= 0
    if frame is None or not plain or value != 0.0:
        return None
    window = (frame.window[0].shift(top, bottom), frame.window[1].shift(left, right))
    return ctx.make(node, window, lambda wanted: (frame.shifted(wanted), wanted))


SMOOTH = (
    *(aten.silu.default, aten.sigmoid.default, aten.hardswish.default, aten.hardsigmoid.default, aten.gelu.default),
    *(aten.elu.default, aten.leaky_relu.default, aten.tanh.default, aten.mish.default, aten.clamp.default),
)


@rule(*SMOOTH)
def _pointwise(ctx: Context, node: fx.Node) -> Frame | None:
    frame = ctx.frame(node.args[0])
    if frame is None or any(isinstance(a, fx.Node) for a in node.args[1:]):
        return None

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        made = ctx.target.module.graph.call_function(node.target, (frame.value(), *node.args[1:]), dict(node.kwargs))  # type: ignore[arg-type]
        return made, ctx.background(node, frame.window)

    return ctx.make(node, frame.window, emit)


@rule(aten.relu.default, aten.hardtanh.default)
def _clamp(ctx: Context, node: fx.Node) -> Frame | None:
    """clamp(K + D, lo, hi) - K' = clamp(D + (K - K'), lo - K', hi - K') with K' = clamp(K, lo, hi): one pass."""
    frame = ctx.frame(node.args[0])
    if frame is None:
        return None
    if node.target == aten.relu.default:
        low, high = 0.0, None
    else:
        low, high = (float(a) for a in _arguments(node, (None, -1.0, 1.0))[1:])

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        before, after = frame.background(), ctx.background(node, frame.window)
        same = wanted.shape == after.shape and torch.equal(wanted, after)
        if ctx.target.style == "shift" or same:
            made = ctx.target.module.graph.call_function(node.target, (frame.shifted(before), *node.args[1:]))  # type: ignore[arg-type]
            return made, after
        inner = frame.shifted(collapse(before - after))
        floor = ctx.target.constant(low - after)
        ceiling = None if high is None else ctx.target.constant(high - after)
        if ceiling is None:
            return ctx.target.call(aten.clamp_min.Tensor, inner, floor), zero(wanted)
        return ctx.target.call(aten.clamp.Tensor, inner, floor, ceiling), zero(wanted)

    return ctx.make(node, frame.window, emit)


def _per_channel(ctx: Context, value: object, channels: int) -> bool:
    """Whether ``value`` is a number or a constant with one number per channel (or one in all)."""
    if isinstance(value, (int, float)):
        return True
    tensor = ctx.constant(value)
    if tensor is None:
        return False
    if tensor.numel() == 1:
        return True
    return tensor.dim() >= 3 and tuple(tensor.shape[-3:]) == (channels, 1, 1) and tensor.numel() == channels


@rule(aten.add.Tensor, aten.sub.Tensor, operator.add)
def _add(ctx: Context, node: fx.Node) -> Frame | None:
    frames = [ctx.frame(a) for a in node.args[:2]]
    first, second = frames[0], frames[1]
    if node.kwargs.get("alpha", 1) != 1:
        return None
    if first is not None and second is not None and first.const.shape == second.const.shape:
        return _add_frames(ctx, node, first, second)
    frame, other = (first, node.args[1]) if first is not None else (second, node.args[0])
    if frame is None or not _per_channel(ctx, other, frame.const.shape[1]):
        return None
    if node.target == aten.sub.Tensor and first is None:
        return None
    kept = frame
    return ctx.make(node, frame.window, lambda wanted: (kept.shifted(wanted), wanted))


def _add_frames(ctx: Context, node: fx.Node, first: Frame, second: Frame) -> Frame | None:
    window = union(first.window, second.window)

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        # The shift rides on the operand whose bias is still free; only one as wide as the union may carry it.
        carrier = next((f for f in (first, second) if f.window == window and not f.emitted), None)
        shift = wanted if carrier is not None and wanted.shape[2:] == (1, 1) else zero(wanted)
        if carrier is second and node.target == aten.sub.Tensor:
            shift = zero(wanted)
        parts = [f.shifted(shift) if f is carrier else f.deviation_on(window) for f in (first, second)]
        return ctx.target.call(node.target, *parts), shift

    return ctx.make(node, window, emit)


@rule(aten.mul.Tensor, aten.div.Tensor, operator.mul)
def _mul(ctx: Context, node: fx.Node) -> Frame | None:
    first, second = (ctx.frame(a) for a in node.args[:2])
    if first is not None and second is not None and first.const.shape == second.const.shape:
        a, b, window = first, second, union(first.window, second.window)
        area = box(window)

        def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
            return ctx.target.call(node.target, a.value_on(area), b.value_on(area)), ctx.background(node, window)

        return ctx.make(node, window, emit)
    frame, other = (first, node.args[1]) if first is not None else (second, node.args[0])
    if frame is None or not _per_channel(ctx, other, frame.const.shape[1]):
        return None
    if node.target == aten.div.Tensor and first is None:
        return None
    factor = ctx.env[other] if isinstance(other, fx.Node) else other
    kept = frame
    return ctx.make(
        node, frame.window, lambda wanted: (ctx.target.call(node.target, kept.deviation(), factor), zero(wanted))
    )


@rule(aten.cat.default)
def _cat(ctx: Context, node: fx.Node) -> Frame | None:
    parts, dim = _arguments(node, (None, 0))
    frames = [f for f in (ctx.frame(a) for a in parts) if f is not None]
    if dim not in (1, -3) or len(frames) != len(parts):
        return None
    window = united(frames)

    def emit(wanted: Tensor) -> tuple[fx.Node, Tensor]:
        return ctx.target.call(aten.cat.default, [f.deviation_on(window) for f in frames], 1), zero(wanted)

    return ctx.make(node, window, emit)


@rule(aten.clone.default, aten.alias.default, aten.detach.default)
def _same(ctx: Context, node: fx.Node) -> Frame | None:
    frame = ctx.frame(node.args[0])
    return None if frame is None else ctx.make(node, frame.window, lambda wanted: (frame.shifted(wanted), wanted))
