"""Partial feature maps for the constant-frame skip: a tensor over the active window plus the known rest of the canvas.

For an input that is zero outside a centred patch, every activation splits as ``x = K + D``: ``K`` is the activation of
the all-zero canvas (recorded once) and the deviation ``D`` vanishes outside the active window. Linear layers act on
``D`` alone, so their own zero padding supplies everything outside the window: no halo has to be copied in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from .fold import add_constant
from .windows import Window, margins, union

aten = torch.ops.aten
Box = tuple[tuple[int, int], tuple[int, int]]
Emit = Callable[[Tensor], tuple[fx.Node, Tensor]]


def box(window: Window) -> Box:
    return (window[0].lo, window[0].hi), (window[1].lo, window[1].hi)


def collapse(values: Tensor) -> Tensor:
    """[1, C, h, w] -> [1, C, 1, 1] when every channel is constant over the window up to rounding; else unchanged."""
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    tolerance = 64 * torch.finfo(values.dtype).eps * values.abs().amax()
    return (low + high) / 2 if bool((high - low <= tolerance).all()) else values


def is_zero(values: Tensor) -> bool:
    return not bool(values.any())


@dataclass
class Target:
    """The graph under construction and how to write into it."""

    module: fx.GraphModule
    dtype: torch.dtype
    style: str

    def call(self, op: object, *args: object) -> fx.Node:
        return self.module.graph.call_function(op, args)  # type: ignore[arg-type]

    def constant(self, values: Tensor) -> fx.Node:
        return add_constant(self.module, "frame", values.to(self.dtype).contiguous())

    def add(self, node: fx.Node, values: Tensor) -> fx.Node:
        return node if is_zero(values) else self.call(aten.add.Tensor, node, self.constant(values))

    def pad(self, node: fx.Node, amounts: tuple[int, int, int, int], value: float = 0.0) -> fx.Node:
        return self.call(aten.constant_pad_nd.default, node, list(amounts), value) if any(amounts) else node


class Frame:
    """Activation of one source node: ``K`` [1, C, H, W] everywhere, ``K + D`` inside ``window``.

    ``emit(wanted)`` writes the nodes that compute ``D + shift`` over the window and returns (node, shift); it honours
    the wanted shift where that is free and returns another one where it is not.
    """

    def __init__(self, target: Target, source: fx.Node, const: Tensor, window: Window, emit: Emit) -> None:
        self.target, self.source, self.const, self.window = target, source, const, window
        self._emit = emit
        self._base: tuple[fx.Node, Tensor] | None = None
        self._cache: list[tuple[Tensor, fx.Node]] = []
        self._full: fx.Node | None = None

    @property
    def emitted(self) -> bool:
        return self._base is not None

    def background(self, area: Box | None = None) -> Tensor:
        """``K`` over ``area`` (default: the window), one number per channel where it is constant there."""
        (r0, r1), (c0, c1) = area or box(self.window)
        return collapse(self.const[:, :, r0:r1, c0:c1])

    def shifted(self, shift: Tensor) -> fx.Node:
        """Node of ``D + shift`` over the window."""
        if self._base is None:
            self._base = self._emit(shift)
        node, base = self._base
        if base.shape == shift.shape and torch.equal(base, shift):
            return node
        for known, made in self._cache:
            if known.shape == shift.shape and torch.equal(known, shift):
                return made
        made = self.target.add(node, shift - base)
        self._cache.append((shift, made))
        return made

    def deviation(self) -> fx.Node:
        return self.shifted(zero(self.const))

    def value(self) -> fx.Node:
        """Node of ``K + D`` over the window."""
        return self.shifted(self.background())

    def deviation_on(self, window: Window) -> fx.Node:
        return self.target.pad(self.deviation(), margins(self.window, box(window)))

    def value_on(self, area: Box) -> fx.Node:
        """Node of the activation over ``area``, which contains the window and lies inside the canvas."""
        amounts = margins(self.window, area)
        if not any(amounts):
            return self.value()
        background = self.background(area)
        if background.shape[2:] == (1, 1):  # one number per channel: the deviation's own zeros will do
            return self.target.add(self.target.pad(self.deviation(), amounts), background)
        (r0, r1), (c0, c1) = area
        ring = self.const[:, :, r0:r1, c0:c1].clone()
        rows, cols = self.window
        ring[:, :, rows.lo - r0 : rows.hi - r0, cols.lo - c0 : cols.hi - c0] = 0
        return self.target.add(self.target.pad(self.value(), amounts), ring)

    def full(self) -> fx.Node:
        """Node of the whole canvas."""
        if self._full is None:
            self._full = self.value_on(((0, self.window[0].size), (0, self.window[1].size)))
        return self._full


def zero(like: Tensor) -> Tensor:
    return like.new_zeros(1, 1, 1, 1)


def united(frames: list[Frame]) -> Window:
    window = frames[0].window
    for frame in frames[1:]:
        window = union(window, frame.window)
    return window
