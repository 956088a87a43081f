"""IDC's matching pass, one core, real CIFAR-10 pictures: gradients of all classes matched once, every image moved.

    taskset -c 0 pytest benchmarks/train/bench_idc.py --benchmark-enable --bench-size full

``reference`` is the loop over classes as IDC's program runs it: decode, augment, two passes through torch's layers, the
second with a graph of its gradients, one step of SGD over all images for each class.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import Labels
from benchmarks.train.bench_trajectory import _pictures
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.data.space import CIFAR
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.store.formation import Formation
from ddfast.train.idc_augment import apply_idc, draw_idc
from ddfast.train.matching import MatchingData
from ddfast.train.matching.idc import IDCMatcher, IDCSettings

WIDTH = {"smoke": 16, "medium": 64, "full": 128}
IPC = {"smoke": 1, "medium": 5, "full": 10}
SETTINGS = IDCSettings(n_data=0, lr_img=1e-3)
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def problem(width: int, ipc: int, dtype: torch.dtype = torch.float32) -> IDCMatcher:
    """A matcher after one pass, whose network is random."""
    x, y = _pictures()
    net = FlatConvNet(width=width)
    labels = torch.arange(10).repeat_interleave(ipc)
    images = torch.rand(10 * ipc, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = MatchingData(net, x.to(dtype), y, images[:0].to(dtype), labels[:0])
    matcher = IDCMatcher(data, images.to(dtype), labels, Formation(2), CIFAR, SETTINGS)
    matcher.advance()
    return matcher


def ours(matcher: IDCMatcher) -> Tensor:
    """Images after the second pass; the matcher is left where it was."""
    before = matcher.state
    matcher.advance()
    images = matcher.state.images
    matcher.state = before
    return images


def reference(matcher: IDCMatcher) -> Tensor:
    """The same as a loop over classes."""
    state, net, number = matcher.state, matcher.data.net, matcher.iteration
    weights = [each.clone().requires_grad_() for each in net.split(state.theta)]
    images = state.images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=SETTINGS.lr_img, momentum=SETTINGS.momentum)
    optimizer.state[images]["momentum_buffer"] = state.velocity.clone()
    mean, std = (images.new_tensor(value)[:, None, None] for value in (CIFAR.mean, CIFAR.std))

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        for place in range(0, len(weights) - 2, 4):
            conv, bias, gamma, beta = weights[place : place + 4]
            x = F.group_norm(F.conv2d(x, conv, bias, padding=1), len(gamma), gamma, beta)
            x = F.avg_pool2d(F.relu(x), 2)
        return F.cross_entropy(F.linear(x.flatten(1), *weights[-2:]), y)

    for c in range(10):
        real = matcher.data.images[matcher._real_rows(c, number)]
        decoded = (Formation(2).decode(images[matcher.own[c]]) - mean) / std
        draw = draw_idc(SETTINGS.augment, 1, (32, 32), seed=0, epoch=number, step=c, siamese=True, stream="idc/match")
        both, target = apply_idc(torch.cat([real, decoded]), draw), torch.full((len(real) + len(decoded),), c)
        count = len(real)
        want = torch.autograd.grad(loss_of(both[:count], target[:count]), weights)
        found = torch.autograd.grad(loss_of(both[count:], target[count:]), weights, create_graph=True)
        pairs = zip(want, found, strict=True)
        loss = torch.stack([(g.detach() - h).square().sum() for g, h in pairs if g.ndim == 4]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return images.detach()


@functools.cache
def _truth(width: int, ipc: int) -> Tensor:
    """How float64 moves the images."""
    matcher = problem(width, ipc, torch.float64)
    given = problem(width, ipc).state
    tensors = {name: getattr(given, name).double() for name in ("images", "velocity", "theta", "net_velocity")}
    matcher.state = replace(given, **tensors)
    return ours(matcher) - matcher.state.images


@pytest.mark.parametrize("way", ["classes together", "reference"])
def test_matching_pass(case: Any, bench_size: str, way: str) -> None:
    width, ipc = WIDTH[bench_size], IPC[bench_size]
    matcher = problem(width, ipc)
    decoded, run = 4 * ipc, ours if way == "classes together" else reference

    def check(images: Tensor) -> Check:
        """Not the largest error: where a ReLU switches in float32, the exact gradient itself jumps."""
        moved = (images - matcher.state.images).double().flatten()
        cosine = float(F.cosine_similarity(moved, _truth(width, ipc).flatten(), 0))
        return Check("1 - cosine to float64's step", 1 - cosine, 5e-3)

    # products of a convolution and image: three of a real picture (two in the first layer), seven of a decoded one
    macs = 9 * width * (3 * 1024 * (2 * 64 + 5 * decoded) + width * (256 + 64) * (3 * 64 + 7 * decoded))
    case(
        lambda: run(matcher),
        labels=Labels(
            f"IDC matching pass, {decoded} decoded images a class", way, "IDCMatcher", f"10 x (64 + {decoded}) images",
            "float32", way, package("torch") if way == "reference" else None, "cpu",
        ),
        work=Work(10 * (64 + decoded), "image", flops=2 * 10 * macs, precision="fp32"),
        check=check,
        rounds=3 if bench_size == "full" else None,
        ddfast=(lambda: ours(matcher)) if way == "reference" else None,
    )  # fmt: skip
