"""D3, one core, CIFAR-10 pictures: an iteration (trajectories, then features) of 10 classes with the small decoder.

    taskset -c 0 pytest benchmarks/train/bench_d3.py --benchmark-enable --bench-size full

``reference`` is D3's own way (`benchmarks.baselines.d3_reference`): one graph from the latents through decoder and
student to the loss (``create_graph=True``), and class by class features and kernels; contiguous pictures. It runs here
with the allocator's thresholds raised, as ddfast does for the process. Features of the real pictures are ddfast's once
for each expert where they are used again and again; ``ddfast, real features anew`` makes them in each iteration.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.baselines.d3_reference import D3Reference
from benchmarks.records import Labels
from benchmarks.train.bench_trajectory import _pictures
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.latent.bank import initial_latents
from ddfast.train.latent.matcher import D3Matcher, D3Settings
from ddfast.train.latent.real_pictures import RealPictures
from ddfast.train.trajectories import TrajectoryStore

# steps of the student, samples a class, width of the net, first width of the decoder
SIZES = {"smoke": (2, 4, 32, 32), "medium": (5, 15, 128, 256), "full": (10, 30, 128, 256)}
EPOCHS, EXPERTS, ITERATIONS = 3, 2, 3000
# Multiplications of a picture at width 128: the student's step (see bench_trajectory); features and their gradient in
# the picture, and features of a real one.
STEP, SAMPLED, REAL = 446e6, 101.5e6, 50.7e6
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _store(width: int) -> TrajectoryStore:
    """Two experts of a few steps; the folder goes with the process."""
    net, (x, y) = FlatConvNet(width=width), _pictures()
    folder = tempfile.TemporaryDirectory(prefix="ddfast-bench-")
    _folders.append(folder)
    store = TrajectoryStore.create(Path(folder.name) / "experts.safetensors", EXPERTS, EPOCHS, net.size, {})
    step = make_step(net)
    for expert in range(EXPERTS):
        theta = net.init(torch.Generator().manual_seed(expert))
        for epoch in range(EPOCHS + 1):
            store.write(expert, epoch, theta)
            for k in range(4):
                gradient = step.first(theta, x[64 * k : 64 * (k + 1)], y[64 * k : 64 * (k + 1)])[1]
                assert gradient is not None
                theta = theta - 0.02 * gradient
    return store


_folders: list[tempfile.TemporaryDirectory[str]] = []


def matcher(size: str, *, double: bool = False, again: bool = False, precision: str = "fp32") -> D3Matcher:
    """At its start. ``again``: real features in each iteration."""
    steps, draws, width, kernels = SIZES[size]
    dtype = torch.float64 if double else torch.float32
    settings = D3Settings(
        iterations=1 if again else ITERATIONS, syn_steps=steps, draws=draws, expert_epochs=1, max_start_epoch=2,
        lr_lr=1e-9, precision=precision,
    )  # fmt: skip
    x, y = _pictures()
    decoder = make_decoder(DecoderConfig(size=32, kernels=kernels), 0, "bench").to(dtype)
    latents = initial_latents(10, 1, 64, seed=0, stream="bench").to(dtype)
    real = RealPictures(x.to(dtype), y)
    return D3Matcher(FlatConvNet(width=width), _store(width), settings, latents, torch.arange(10), decoder, real)


@functools.cache
def _made(size: str, way: str) -> tuple[D3Matcher, D3Reference | None]:
    precision = "bf16" if way.startswith("bf16") else "fp32"
    ours = matcher(size, again="anew" in way, precision=precision)
    if ours.keeps_features:  # made here: an iteration finds them
        ours.feature_gradient()
    return ours, D3Reference(ours) if way == "reference" else None


def iteration(size: str, way: str) -> Tensor:
    """Decoder weights after the first iteration, less those before."""
    ours, reference = _made(size, way)
    if reference is not None:
        return _moved(reference.decoder, functools.partial(reference.advance, 0))
    ours.iteration = 0
    return _moved(ours.decoder, ours.advance)


def _moved(decoder: torch.nn.Module, advance: Callable[[], float]) -> Tensor:
    before = torch.cat([each.detach().flatten() for each in decoder.parameters()])
    advance()
    return torch.cat([each.detach().flatten() for each in decoder.parameters()]) - before


@functools.cache
def _truth(size: str) -> tuple[Tensor, Tensor]:
    """Gradients of the latents in float64: of trajectories and of features."""
    reference = D3Reference(matcher(size, double=True))
    losses = (reference.trajectory_loss(0), reference.feature_loss(0))
    first, second = (torch.autograd.grad(loss, reference.latents)[0] for loss in losses)
    return first, second


def _gradients(size: str, way: str) -> tuple[Tensor, Tensor]:
    """The same at the start of a way's own run."""
    ours = matcher(size, again="anew" in way, precision="bf16" if way.startswith("bf16") else "fp32")
    if way == "reference":
        reference = D3Reference(ours)
        losses = (reference.trajectory_loss(0), reference.feature_loss(0))
        return tuple(torch.autograd.grad(loss, reference.latents)[0] for loss in losses)  # type: ignore[return-value]
    found = []
    for term in (ours.trajectory_gradient, ours.feature_gradient):
        ours.latents.grad = None
        term()
        assert ours.latents.grad is not None
        found.append(ours.latents.grad.clone())
    return found[0], found[1]


WAYS = ("ddfast", "ddfast, real features anew", "bf16", "reference")


@pytest.mark.parametrize("way", WAYS)
def test_iteration(case: Any, bench_size: str, way: str) -> None:
    steps, draws, width, kernels = SIZES[bench_size]
    reference, bf16 = way == "reference", way == "bf16"
    decoder = DecoderConfig(size=32, kernels=kernels)
    share = (width / 128) ** 2
    macs = 10 * steps * STEP * share + 10 * draws * (SAMPLED + REAL * (reference or "anew" in way)) * share
    macs += 10 * (steps + draws) * 3 * decoder.macs

    def check(_: Tensor) -> Check:
        """Not the largest error: where a ReLU switches in float32, the exact gradient itself jumps."""
        cosines = [
            float(F.cosine_similarity(found.double().flatten(), wanted.flatten(), 0))
            for found, wanted in zip(_gradients(bench_size, way), _truth(bench_size), strict=True)
        ]
        return Check("1 - cosine to the float64 gradient", 1 - min(cosines), 0.05 if bf16 else 5e-3)

    case(
        lambda: iteration(bench_size, way),
        labels=Labels(
            f"D3 iteration, {steps} steps, {draws} samples a class", way, "d3", "10 classes, small decoder",
            "bfloat16" if bf16 else "float32", way, package("torch") if reference else None, "cpu",
        ),
        work=Work(10 * (steps + draws), "picture", flops=2 * macs, precision="bf16" if bf16 else "fp32"),
        check=check,
        rounds=3 if bench_size == "full" else None,
        ddfast=(lambda: iteration(bench_size, "ddfast")) if reference else None,
    )  # fmt: skip
