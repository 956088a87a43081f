"""Folds inference batch norm of an ATen graph into the convolution or linear layer before it."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import Parameter
from torch.nn.utils import fuse_conv_bn_weights, fuse_linear_bn_weights

aten = torch.ops.aten
BATCH_NORM = aten._native_batch_norm_legit_no_training.default


def constant(module: fx.GraphModule, node: Any) -> Tensor | None:
    """The parameter or buffer a ``get_attr`` node stands for; None for anything else."""
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        return None
    value: Any = module
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value if isinstance(value, Tensor) else None


def add_constant(module: fx.GraphModule, name: str, value: Tensor) -> fx.Node:
    """Registers ``value`` as a buffer under a free name derived from ``name`` and makes its ``get_attr`` node."""
    stem, count = name, 0
    while hasattr(module, name):
        count += 1
        name = f"{stem}_{count}"
    module.register_buffer(name, value)
    return module.graph.get_attr(name)


def _affine(module: fx.GraphModule, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Scale and shift of an inference batch norm, float64 [C]."""
    weight, bias, mean, var = (constant(module, a) for a in norm.args[1:5])
    if mean is None or var is None:
        raise ValueError(f"batch norm {norm.name}: expected running statistics as constants")
    scale = torch.rsqrt(var.double() + float(norm.args[6]))  # type: ignore[arg-type]
    scale = scale if weight is None else scale * weight.double()
    shift = -mean.double() * scale
    return scale, shift if bias is None else shift + bias.double()


def _fold_into(module: fx.GraphModule, layer: fx.Node, norm: fx.Node) -> bool:
    if layer.target not in (aten.conv2d.default, aten.linear.default) or len(layer.users) != 1:
        return False
    weight = constant(module, layer.args[1])
    bias = constant(module, layer.args[2]) if len(layer.args) > 2 else None
    w, b, mean, var = (constant(module, a) for a in norm.args[1:5])
    if weight is None or mean is None or var is None:
        return False
    fuse: Callable[..., tuple[Tensor, Tensor]] = (
        fuse_conv_bn_weights if layer.target == aten.conv2d.default else fuse_linear_bn_weights
    )
    wide = [None if t is None else t.detach().double() for t in (weight, bias, mean, var, w, b)]
    new_weight, new_bias = fuse(*wide[:4], float(norm.args[6]), *wide[4:])  # type: ignore[arg-type]
    with module.graph.inserting_before(layer):
        weight_node = add_constant(module, f"{layer.name}_folded_weight", new_weight.detach().to(weight.dtype))
        bias_node = add_constant(module, f"{layer.name}_folded_bias", new_bias.detach().to(weight.dtype))
    layer.args = (layer.args[0], weight_node, bias_node, *layer.args[3:])
    return True


def _as_affine(module: fx.GraphModule, norm: fx.Node, output: fx.Node) -> fx.Node:
    """A batch norm that follows no convolution becomes ``x * scale + shift``."""
    source = norm.args[0]
    like = constant(module, norm.args[3])
    if not isinstance(source, fx.Node) or like is None:
        raise ValueError(f"batch norm {norm.name}: unexpected arguments")
    scale, shift = (t.reshape(1, -1, 1, 1).to(like.dtype) for t in _affine(module, norm))
    with module.graph.inserting_before(norm):
        scaled = module.graph.call_function(
            aten.mul.Tensor, (source, add_constant(module, f"{norm.name}_scale", scale))
        )
        result = module.graph.call_function(
            aten.add.Tensor, (scaled, add_constant(module, f"{norm.name}_shift", shift))
        )
    scaled.meta, result.meta = dict(output.meta), dict(output.meta)
    return result


def fold_batch_norm(module: fx.GraphModule) -> int:
    """Folds every inference batch norm of ``module`` in place, in float64, and returns how many joined a layer.

    A norm whose input is not a convolution or linear layer used by it alone is rewritten as a multiply and an add per
    channel. Only graphs of functional ATen calls, as :func:`ddfast.nets.capture.capture` makes them, have such nodes.
    """
    folded = 0
    for norm in [n for n in module.graph.nodes if n.target == BATCH_NORM]:
        outputs = [u for u in norm.users if u.target is operator.getitem and u.args[1] == 0]
        if len(outputs) != 1 or len(norm.users) != 1:
            continue
        source = norm.args[0]
        if isinstance(source, fx.Node) and _fold_into(module, source, norm):
            outputs[0].replace_all_uses_with(source)
            folded += 1
        else:
            outputs[0].replace_all_uses_with(_as_affine(module, norm, outputs[0]))
        module.graph.erase_node(outputs[0])
        module.graph.erase_node(norm)
    module.graph.eliminate_dead_code()
    module.recompile()
    for name in [n for n, p in module.named_parameters(recurse=False) if isinstance(p, Parameter)]:
        getattr(module, name).requires_grad_(False)
    return folded
