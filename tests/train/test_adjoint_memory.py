"""Peak memory of the trajectory gradient: flat in the number of steps, and far below autograd's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.slow
def test_recompute_is_flat_in_the_number_of_steps() -> None:
    few, many = (kilobytes("adjoint", "recompute", steps, 32) for steps in (5, 50))
    thetas = 45 * 4 * 320_010 / 1024  # the students along the way are kept, nothing else
    assert many - thetas <= 1.05 * few


@pytest.mark.slow
def test_recompute_takes_a_tenth_of_autograd() -> None:
    assert kilobytes("adjoint", "recompute", 10, 50) <= 0.1 * kilobytes("autograd", "store", 10, 50)


@pytest.mark.slow
def test_store_takes_a_third_of_autograd() -> None:
    assert kilobytes("adjoint", "store", 10, 50) <= 0.45 * kilobytes("autograd", "store", 10, 50)
