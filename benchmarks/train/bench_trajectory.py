"""Trajectory matching, one core, real CIFAR-10 pictures: the exact gradient of MTT's loss, and expert training.

    taskset -c 0 pytest benchmarks/train/bench_trajectory.py --benchmark-enable --bench-size full

``reference`` is MTT's own iteration: a graph of all steps through torch's layers (``create_graph=True``), contiguous
pictures. It runs here with the allocator's thresholds raised, as ddfast does for the process; ``reference, plain
malloc`` is the same program in a process of its own without that.
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

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.records import Labels
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, Match, match_trajectory
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.dsa import STRATEGY, draw_dsa

DATA = Path(os.environ.get("DDFAST_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "cifar10-subset.npz"
STEPS = {"smoke": 2, "medium": 5, "full": 10}
IPC = {"smoke": (1,), "medium": (1,), "full": (1, 10)}
NET = FlatConvNet()
MACS = 446e6  # of one image and step: layer 1 six convolutions' worth, the others nine (stored activations)
MACS_TRAINING = 148.5e6
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _pictures() -> tuple[Tensor, Tensor]:
    """Normalised CIFAR-10, or noise where the data are absent (the work is the same)."""
    if not DATA.exists():
        return torch.randn(5000, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.arange(5000) % 10
    with np.load(DATA) as file:
        images = torch.from_numpy(file["x_train"]).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(file["y_train"].astype(np.int64))
    return ((images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)), labels


@functools.cache
def _experts() -> tuple[Tensor, Tensor]:
    """Weights after some real training, and some steps later."""
    x, y = _pictures()
    theta = NET.init(torch.Generator().manual_seed(1))
    step, kept = make_step(NET), []
    for number in range(24):
        part = slice(64 * number, 64 * (number + 1))
        gradient = step.first(theta, x[part], y[part])[1]
        assert gradient is not None
        theta = theta - 0.02 * gradient
        kept.append(theta)
    return kept[11], kept[23]


@functools.cache
def problem(ipc: int, steps: int) -> dict[str, Any]:
    """The arguments of `match_trajectory`."""
    x, y = _pictures()
    index = torch.cat([torch.nonzero(y == c)[:ipc, 0] for c in range(10)])
    start, target = _experts()
    count = 10 * ipc
    draws = [
        InnerStep(torch.randperm(count), draw_dsa(STRATEGY, count, (32, 32), seed=0, step=i)) for i in range(steps)
    ]
    return {
        "net": NET,
        "start": start,
        "target": target,
        "images": x[index],
        "labels": y[index],
        "lr": 0.01,
        "steps": draws,
    }


def _plain(ipc: int, steps: int) -> dict[str, float]:
    """Seconds of CPU of the reference with malloc as it comes, in a process of its own."""
    code = (
        "import json, sys, time, torch\n"
        "torch.set_num_threads(1)\n"
        "from benchmarks.train.bench_trajectory import problem\n"
        "from ddfast.train.adjoint import match_trajectory\n"
        "given = problem(int(sys.argv[1]), int(sys.argv[2]))\n"
        "times = []\n"
        "for _ in range(3):\n"
        "    begin = time.process_time(); match_trajectory(**given, unroll='autograd')\n"
        "    times.append(time.process_time() - begin)\n"
        "print(json.dumps(sorted(times)[1]))\n"
    )
    environment = {**os.environ, "DDFAST_MALLOC": "0"}
    command = [sys.executable, "-c", code, str(ipc), str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=True,
                          env=environment, cwd=Path(__file__).parents[2])  # fmt: skip
    return {"reference_plain_malloc_cpu_seconds": json.loads(done.stdout.splitlines()[-1])}


WAYS: dict[str, dict[str, Any]] = {
    "store": {},
    "recompute": {"memory": "recompute"},
    "bf16": {"precision": "bf16"},
    "first_order": {"adjoint": "first_order"},
    "reference": {"unroll": "autograd"},
}


@functools.cache
def _truth(ipc: int, steps: int) -> Match:
    given = problem(ipc, steps)
    doubled = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in given.items()}
    return match_trajectory(**doubled)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("column", [0, 1])
def test_iteration(case: Any, bench_size: str, column: int, way: str) -> None:
    if column >= len(IPC[bench_size]):
        pytest.skip("in the full size only")
    ipc, steps = IPC[bench_size][column], STEPS[bench_size]
    given = problem(ipc, steps)

    def check(match: Match) -> Check:
        """Not the largest error: where a ReLU switches in float32, the exact gradient itself jumps."""
        cosine = float(F.cosine_similarity(match.images.double().flatten(), _truth(ipc, steps).images.flatten(), 0))
        return Check("1 - cosine to the float64 gradient", 1 - cosine, 0.5 if way == "first_order" else 5e-3)

    case(
        lambda: match_trajectory(**given, **WAYS[way]),
        labels=Labels(
            f"MTT iteration, IPC {ipc}, {steps} steps", way, "match_trajectory", f"{10 * ipc} images a step",
            "bfloat16" if way == "bf16" else "float32", way, package("torch") if way == "reference" else None, "cpu",
        ),
        work=Work(10 * ipc * steps, "image-step", flops=2 * MACS * 10 * ipc * steps,
                  precision="bf16" if way == "bf16" else "fp32"),
        check=check,
        rounds=3 if ipc > 1 else None,  # up to half a minute each
        ddfast=(lambda: match_trajectory(**given)) if way == "reference" else None,
        notes=(lambda: _plain(ipc, steps)) if way == "reference" and bench_size == "full" else dict,
    )  # fmt: skip


def _train_plain(theta: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """One step as MTT writes it: torch's layers and SGD."""
    theta = theta.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(NET.logits(theta, x), y), theta)
    return theta.detach() - 0.01 * gradient


def _train_ours(theta: Tensor, x: Tensor, y: Tensor, precision: str = "fp32") -> Tensor:
    gradient = make_step(NET, precision).first(theta, x, y)[1]
    assert gradient is not None
    return theta - 0.01 * gradient


TRAININGS: dict[str, Callable[..., Tensor]] = {
    "planes": _train_ours, "bf16": functools.partial(_train_ours, precision="bf16"), "torch": _train_plain,
}  # fmt: skip


@pytest.mark.parametrize("way", TRAININGS)
def test_expert_step(case: Any, bench_size: str, way: str) -> None:
    batch = 32 if bench_size == "smoke" else 256
    x, y = (part[:batch] for part in _pictures())
    theta = _experts()[0]

    def check(after: Tensor) -> Check:
        want = _train_plain(theta.double(), x.double(), y) - theta.double()
        cosine = float(F.cosine_similarity(after.double() - theta.double(), want, 0))
        return Check("1 - cosine of the step to float64's", 1 - cosine, 1e-3 if way == "bf16" else 1e-6)

    case(
        lambda: TRAININGS[way](theta, x, y),
        labels=Labels(
            f"expert training step, {batch} images", way, "train_experts", f"{batch} images",
            "bfloat16" if way == "bf16" else "float32", way, package("torch") if way == "torch" else None, "cpu",
        ),
        work=Work(batch, "image", flops=2 * MACS_TRAINING * batch, precision="bf16" if way == "bf16" else "fp32"),
        check=check,
        ddfast=(lambda: _train_ours(theta, x, y)) if way == "torch" else None,
    )  # fmt: skip
