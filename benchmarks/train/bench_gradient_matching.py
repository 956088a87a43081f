"""Gradient and distribution matching, one core, CIFAR-10 pictures: one step of all classes of DSA, and of DM.

    taskset -c 0 pytest benchmarks/train/bench_gradient_matching.py --benchmark-enable --bench-size full

``reference`` is the papers' way: class by class through torch's layers, contiguous pictures, for DSA with second
derivatives by ``create_graph=True``. It runs here with the allocator's thresholds raised, as ddfast does for the
process; its notes say how long the same program takes in a process of its own without that.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.dsa import STRATEGY
from ddfast.train.matching import MatchingData
from ddfast.train.matching.distribution import DistributionMatcher
from ddfast.train.matching.gradient import GradientMatcher, GradientSettings
from ddfast.train.matching.images import ImageSettings

# classes, real and synthetic pictures of each, width of the net
SIZES = {"smoke": (2, 16, 2, 32), "medium": (10, 32, 1, 128), "full": (10, 256, 10, 128)}
# Multiplications of a picture at width 128: a convolution of the first layer, and of the others together.
FIRST, OTHERS = 3.54e6, 47.2e6
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def problem(size: str, double: bool = False) -> tuple[MatchingData, Tensor, Tensor]:
    """Real pictures, synthetic ones and their classes."""
    classes, _, ipc, width = SIZES[size]
    x, y = _pictures()
    x, y = x[y < classes].to(torch.float64 if double else torch.float32), y[y < classes]
    index = torch.cat([torch.nonzero(y == label)[:ipc, 0] for label in range(classes)])
    data = MatchingData(FlatConvNet(classes, width=width), x, y, x[:0], y[:0])
    return data, x[index], y[index]


def dsa_step(size: str, *, double: bool = False, **changes: Any) -> Tensor:
    """Gradient of the images in one matching step."""
    data, images, labels = problem(size, double)
    settings = GradientSettings("dsa", 1, 0.1, batch_real=SIZES[size][1], dsa=STRATEGY, **changes)
    ours = GradientMatcher(data, images, labels, settings)
    with torch.no_grad():
        return ours.matched(ours.start(0), images)[1]


def dm_step(size: str, *, double: bool = False, precision: str = "fp32") -> Tensor:
    """Images after one step of DM."""
    data, images, labels = problem(size, double)
    settings = ImageSettings("dm", 1, 1.0, batch_real=SIZES[size][1], dsa=STRATEGY, precision=precision)
    ours = DistributionMatcher(data, images, labels, settings)
    ours.advance()
    return images - ours.images


def dm_reference(size: str, *, double: bool = False) -> Tensor:
    """The same in torch's layers on the same draws."""
    data, images, labels = problem(size, double)
    ours = DistributionMatcher(data, images, labels, ImageSettings("dm", 1, 1.0, batch_real=SIZES[size][1],
                                                                   dsa=STRATEGY))  # fmt: skip
    theta, leaf = ours.start(0), images.clone().requires_grad_()
    loss = images.new_zeros(())
    for label in ours.classes:
        pair = ours.pair(label, leaf)
        with torch.no_grad():
            real = data.net.features(theta, pair.real)
        loss = loss + (real.mean(0) - data.net.features(theta, pair.synthetic).mean(0)).square().sum()
    return torch.autograd.grad(loss, leaf)[0]


def _plain(size: str, call: str) -> dict[str, float]:
    """Seconds of CPU of the reference with malloc as it comes, in a process of its own."""
    code = (
        "import json, sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from benchmarks.train.bench_gradient_matching import dm_reference, dsa_step\n"
        "times = []\n"
        "for _ in range(3):\n"
        f"    begin = time.process_time(); {call}; times.append(time.process_time() - begin)\n"
        "print(json.dumps(sorted(times)[1]))\n"
    )
    environment = {**os.environ, "DDFAST_MALLOC": "0"}
    done = subprocess.run([sys.executable, "-c", code, size], capture_output=True, text=True, check=True,
                          env=environment, cwd=Path(__file__).parents[2])  # fmt: skip
    return {"reference_plain_malloc_cpu_seconds": json.loads(done.stdout.splitlines()[-1])}


WAYS: dict[str, dict[str, Callable[[str], Tensor]]] = {
    "DSA": {
        "ddfast": dsa_step,
        "bf16": functools.partial(dsa_step, precision="bf16"),
        "reference": functools.partial(dsa_step, batched=False),
    },
    "DM": {
        "ddfast": dm_step,
        "bf16": functools.partial(dm_step, precision="bf16"),
        "reference": dm_reference,
    },
}
PLAIN = {"DSA": "dsa_step(sys.argv[1], batched=False)", "DM": "dm_reference(sys.argv[1])"}


@functools.cache
def _truth(size: str, method: str) -> Tensor:
    return dsa_step(size, double=True, batched=False) if method == "DSA" else dm_reference(size, double=True)


@pytest.mark.parametrize("way", ["ddfast", "bf16", "reference"])
@pytest.mark.parametrize("method", WAYS)
def test_step(case: Any, bench_size: str, method: str, way: str) -> None:
    run, reference = WAYS[method][way], way == "reference"
    classes, real, synthetic, width = SIZES[bench_size]
    # DSA: real pictures need the forward pass and two products backward, synthetic ones seven; DM one, and two
    per_real, per_synthetic = (3, 7) if method == "DSA" else (1, 2)
    macs = real * (per_real * OTHERS + (per_real - per_real // 3) * FIRST)
    macs = classes * (macs + synthetic * (per_synthetic * OTHERS + (per_synthetic - per_synthetic // 3) * FIRST))

    def check(gradient: Tensor) -> Check:
        """Not the largest error: where a ReLU switches in float32, the exact gradient itself jumps."""
        cosine = float(F.cosine_similarity(gradient.double().flatten(), _truth(bench_size, method).flatten(), 0))
        return Check("1 - cosine to the float64 gradient", 1 - cosine, 0.02 if way == "bf16" else 1e-3)

    case(
        lambda: run(bench_size),
        labels=Labels(
            f"{method} step", way, "dsa" if method == "DSA" else "dm",
            f"{classes} classes of {real} real and {synthetic} synthetic pictures", "bfloat16" if way == "bf16" else
            "float32", way, package("torch") if reference else None, "cpu",
        ),
        work=Work(classes * (real + synthetic), "image", flops=2 * macs * (width / 128) ** 2,
                  precision="bf16" if way == "bf16" else "fp32"),
        check=check,
        rounds=3 if bench_size == "full" else None,  # up to ten seconds each
        ddfast=(lambda: WAYS[method]["ddfast"](bench_size)) if reference else None,
        notes=(lambda: _plain(bench_size, PLAIN[method])) if reference and bench_size == "full" else dict,
    )  # fmt: skip
