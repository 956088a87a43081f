"""Peak memory of the trajectory gradient: flat in the number of steps, and far below autograd's."""

from __future__ import annotations

import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, match_trajectory

ROOT = Path(__file__).resolve().parents[2]
CODE = """
import resource, sys, torch
torch.set_num_threads(1)
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, match_trajectory

def peak():  # of this process alone: VmHWM, since ru_maxrss is inherited through fork
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

unroll, memory, steps, images = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
net = FlatConvNet()
start = net.init(torch.Generator().manual_seed(0))
x, y = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(images) % 10
given = (net, start, start + 0.01, x, y, 0.01)
index = torch.arange(images)
small = [InnerStep(index[:2])]
match_trajectory(*given, small, unroll=unroll, memory=memory)  # loads what is loaded once
before = peak()
match_trajectory(*given, [InnerStep(index)] * steps, unroll=unroll, memory=memory)
print(peak() - before)
"""


def kilobytes(unroll: str, memory: str, steps: int, images: int) -> int:
    """Peak beyond what was there before."""
    command = [sys.executable, "-c", CODE, unroll, memory, str(steps), str(images)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=600)
    return int(done.stdout)


def tensor_bytes(steps: int) -> int:
    """Peak of the tensors alive in recompute mode, beyond those alive before."""
    net = FlatConvNet(width=32)
    start = net.init(torch.Generator().manual_seed(0))
    x, y = torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(32) % 10
    batches = [InnerStep(torch.arange(32))] * steps
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        match_trajectory(net, start, start + 0.01, x, y, 0.01, batches, memory="recompute")
    made = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = accumulate(event.nbytes() for event in sorted(made, key=lambda event: event.start_ns()))
    return max(alive) - 4 * net.size * steps  # the students along the way are kept, nothing else


def test_recompute_is_flat_in_the_number_of_steps() -> None:
    few, many = tensor_bytes(5), tensor_bytes(50)
    assert few > 1_000_000
    assert many <= 1.05 * few


@pytest.mark.slow
def test_processes_are_as_small_as_their_tensors_say() -> None:
    few, many = (kilobytes("adjoint", "recompute", steps, 32) for steps in (5, 25))
    thetas = 20 * 4 * 320_010 / 1024
    assert many - thetas <= 1.25 * few  # a tenth more or less is the heap's layout
    autograd = kilobytes("autograd", "store", 8, 40)
    assert kilobytes("adjoint", "recompute", 8, 40) <= 0.15 * autograd  # 1/29 at 100 images and 10 steps
    assert kilobytes("adjoint", "store", 8, 40) <= 0.45 * autograd
