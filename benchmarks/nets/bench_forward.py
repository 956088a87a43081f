"""The observer's forward, 112 px patches on an empty 224 px canvas, ResNet-18, one core; the GPU where there is one.

    pytest benchmarks/nets/bench_forward.py --benchmark-enable --bench-size full

All do the same job: bare patches in, logits out. The floor counts the multiplications that the patch can influence
(what is left by the constant-frame skip), so whoever also computes the empty canvas is at least 1.33 x away from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.records import Labels
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.nets import Forward, Observer, build_forward, load_observer
from ddfast.nets.engines import available
from ddfast.nets.settings import full_float32

PATCH, CANVAS = 112, 224
BATCH = {"smoke": 5, "medium": 20, "full": 20}
GPU_BATCH = {"smoke": 20, "medium": 500, "full": 500}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BOUNDS = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
ON_CPU = ("fp32", "bf16")
pytestmark = pytest.mark.usefixtures("one_thread")
Net = Callable[[Tensor], Tensor]


@functools.cache
def _observer() -> Observer:
    torch.manual_seed(0)  # the arithmetic does not depend on the weights
    return load_observer("resnet18", random_weights=True)


@functools.cache
def _ddfast(precision: str, engine: str, device: str, batch: int) -> Forward:
    options = {"precision": precision, "engine": engine, "device": device, "micro_batch": batch, "threads": 1}
    return build_forward(_observer(), patch=PATCH, canvas=CANVAS, **options)


@functools.cache
def _patches(batch: int, device: str = "cpu") -> Tensor:
    return torch.randn(batch, 3, PATCH, PATCH, generator=torch.Generator().manual_seed(0)).to(device)


@functools.cache
def _truth(batch: int, device: str) -> Tensor:
    net = load_observer(_observer().module, input_size=CANVAS).module.to(device).double()
    with torch.inference_mode():
        return torch.cat([net(_pad(each.double())).cpu() for each in _patches(batch, device).split(4)])


def _pad(patches: Tensor) -> Tensor:
    return F.pad(patches, ((CANVAS - PATCH) // 2,) * 4)


def _module(precision: str, device: str) -> nn.Module:
    net = load_observer(_observer().module, input_size=CANVAS).module  # a copy
    return net.to(device, DTYPES[precision], memory_format=torch.channels_last).eval()


def _torch(net: Net, precision: str) -> Net:
    def run(patches: Tensor) -> Tensor:
        with torch.inference_mode(), full_float32():
            return net(_pad(patches).to(DTYPES[precision], memory_format=torch.channels_last)).float()

    return run


def eager(precision: str, device: str, _batch: int) -> Net:
    """Channels-last, weights cast."""
    return _torch(_module(precision, device), precision)


def compiled(precision: str, device: str, _batch: int) -> Net:
    """``torch.compile`` with frozen weights (batch norm folded) on the CPU, CUDA graphs on the GPU."""
    options = {"freezing": True} if device == "cpu" else {"triton.cudagraphs": True, "freezing": True}
    net = torch.compile(_Padded(_module(precision, device), DTYPES[precision]), options=options, dynamic=False)

    def run(patches: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(patches)

    return run


class _Padded(nn.Module):
    """Padding and casts belong to what is compiled: they fuse into the first layer."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self.dtype = net, dtype

    def forward(self, patches: Tensor) -> Tensor:
        return self.net(_pad(patches.to(self.dtype, memory_format=torch.channels_last))).float()


def openvino(precision: str, _device: str, batch: int) -> Net:
    """The whole canvas, latency mode, one thread; what an OpenVINO user would write."""
    return build_forward(
        _observer(), patch=PATCH, canvas=CANVAS, precision=precision, engine="openvino", constant_frame_skip=False,
        micro_batch=batch, threads=1,
    )  # fmt: skip


BASELINES = {"torch-eager": (eager, "torch"), "torch-compile": (compiled, "torch"), "openvino": (openvino, "openvino")}


def _measure(
    case: Any, name: str, net: Net, precision: str, backend: str, baseline: str | None, patches: Tensor
) -> None:
    batch, device = patches.shape[0], patches.device.type
    truth = _truth(batch, device)

    def check(out: Tensor, *_: Any) -> Check:
        error = float((out.cpu().double() - truth).abs().max() / truth.abs().max())
        return Check("largest logit error over largest logit, against float64", error, BOUNDS[precision])

    best = _ddfast(precision, "auto", device, batch)
    flops = 2.0 * best.info["macs_active"] * batch
    weights = sum(p.numel() for p in _observer().module.parameters())
    moved = DTYPES[precision].itemsize * (weights + patches.numel())
    case(
        net,
        inputs=[(patches,)],
        labels=Labels(
            f"forward {precision}" + (" cuda" if device == "cuda" else ""),
            name, "forward", f"ResNet-18, {batch} patches of {PATCH} on {CANVAS}", precision, backend, baseline, device,
        ),
        work=Work(batch, "crop", moved, flops, "fp32" if precision == "fp32" else "bf16"),
        check=check,
        ddfast=(lambda: best(patches)) if baseline else None,
    )  # fmt: skip


@pytest.mark.parametrize("engine", ["openvino", "torch"])
@pytest.mark.parametrize("precision", ON_CPU)
def test_ddfast(case: Any, bench_size: str, precision: str, engine: str) -> None:
    if engine != "torch" and not available(engine):
        pytest.skip(f"{engine} is not installed")
    batch = BATCH[bench_size]
    net = _ddfast(precision, "auto" if engine == "openvino" else engine, "cpu", batch)
    _measure(case, f"ddfast-{engine}", net, precision, net.info["engine"], None, _patches(batch))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("precision", ON_CPU)
def test_baseline(case: Any, bench_size: str, precision: str, name: str) -> None:
    make, library = BASELINES[name]
    if name == "openvino" and not available("openvino"):
        pytest.skip("openvino is not installed")
    if name == "torch-compile" and bench_size == "smoke" and precision == "bf16":
        pytest.skip("compiles for a long time; fp32 stands for both at smoke size")
    batch = BATCH[bench_size]
    _measure(case, name, make(precision, "cpu", batch), precision, name, package(library), _patches(batch))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["ddfast-torch", "ddfast-compile", "torch-eager", "torch-compile"])
@pytest.mark.parametrize("precision", DTYPES)
def test_cuda(case: Any, bench_size: str, precision: str, name: str) -> None:
    patches = _patches(GPU_BATCH[bench_size], "cuda")
    if name in BASELINES:
        net, baseline = BASELINES[name][0](precision, "cuda", len(patches)), package("torch")
    else:
        net, baseline = _ddfast(precision, name.removeprefix("ddfast-"), "cuda", len(patches)), None
    _measure(case, name, net, precision, name, baseline, patches)
