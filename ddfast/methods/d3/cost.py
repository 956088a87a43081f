"""What a D3 run takes: pictures, steps and floating-point operations, counted from its settings."""

from __future__ import annotations

import math
from typing import Any

import torch

from ddfast.methods._problem import Problem
from ddfast.methods.d3.config import D3Config
from ddfast.methods.d3.split import Blocks
from ddfast.nets.flat_convnet import FlatConvNet

# forwards of the ConvNet that a picture counts for: a step of an expert, and one of the student in an iteration, whose
# gradient runs through the steps (second derivatives)
_STEP, _UNROLLED = 3, 9


def forward_macs(net: FlatConvNet) -> int:
    """Multiplications with addition of one picture's forward, in convolutions and the linear layer."""
    found, side = 0, net.input_size
    for shape in net.shapes:
        if len(shape) == 4:
            found += math.prod(shape) * side**2
            side //= 1 if net.pool == "none" else 2
        elif len(shape) == 2:
            found += math.prod(shape)
    return found


def run_cost(problem: Problem, config: D3Config, blocks: Blocks) -> dict[str, Any]:
    """``blocks``: of each ``experts`` and ``distillation``; ``label_experts``; each with ``pictures`` that went through
    the ConvNet, optimiser ``steps`` and ``flops``; ``flops`` of all.

    Two operations for each multiplication with addition; norms, activations, kernels and tests on the way are not
    counted. A picture counts for three forwards in an expert's step, for nine in a student's step that is
    differentiated through, a sample in the MMD for two (no gradients of weights), a real picture for one (in every
    iteration, though their features may be kept), a decoded picture for three of the decoder's.

    Args:
        problem: of all classes.
        config: of the run.
        blocks: classes of each block.
    """
    counts = torch.bincount(problem.labels, minlength=len(problem.class_names))
    listed, labelling = [], _training(problem.net, len(problem.labels), 0, 0, config)
    if config.soft_labels == "expert" and config.label_buffers is None:
        sizes = (len(problem.labels), config.label_experts, config.label_epoch)
        labelling = _training(problem.net, *sizes, config)
    for classes in blocks:
        net = config.matching_config().net(len(classes))
        pictures = int(counts[list(classes)].sum())
        experts = _training(net, pictures, config.experts, config.expert_train_epochs, config)
        listed.append({"experts": experts, "distillation": _distillation(net, len(classes), config)})
    parts = [labelling, *(part for block in listed for part in block.values())]
    return {"blocks": listed, "label_experts": labelling, "flops": sum(part["flops"] for part in parts)}


def _training(net: Any, pictures: int, experts: int, epochs: int, config: D3Config) -> dict[str, int]:
    passes = experts * epochs
    return {
        "pictures": passes * pictures,
        "steps": passes * -(-pictures // config.expert_batch),
        "flops": 2 * _STEP * passes * pictures * forward_macs(net),
    }


def _distillation(net: Any, classes: int, config: D3Config) -> dict[str, int]:
    rows, forward, decoding = classes * config.lpc, forward_macs(net), _STEP * config.decoder_config().macs
    pictures = macs = 0
    if config.mtt_weight:
        unrolled = config.syn_steps * min(config.batch_syn or rows, rows)
        pictures += unrolled
        macs += unrolled * (_UNROLLED * forward + decoding)
    if config.mmd_weight:
        real = config.draws * rows
        samples = real if config.sampling else rows
        pictures += samples + real
        macs += samples * (2 * forward + decoding) + real * forward
    updates = bool(config.mtt_weight) + bool(config.mmd_weight)
    return {
        "pictures": config.iterations * pictures,
        "steps": config.iterations * updates,
        "flops": 2 * config.iterations * macs,
    }
