"""multi_crop against torch and the fastest resizers on one core; on the GPU where there is one.

taskset -c 0 pytest benchmarks/ops/bench_multi_crop.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.ops.crop_rivals import rivals
from benchmarks.ops.crop_work import LEVEL, MEAN, STD, Work, crops_of, make_work
from benchmarks.records import Labels
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.bench.rivals import float_crops, to_float
from ddfast.ops import available_backends, multi_crop, use_backend

CROPS = {"smoke": 10, "medium": 40, "full": 100}
GPU_CROPS = {"smoke": 40, "medium": 640, "full": 2560}
SHAPES = ("rded-112", "wide-224")
F32, BF16 = torch.float32, torch.bfloat16
OURS = {
    "cpp-float32": ("cpp", F32, False),
    "cpp-float32-channels_last": ("cpp", F32, True),
    "cpp-bfloat16-channels_last": ("cpp", BF16, True),
    "reference-float32": ("reference", F32, False),
}
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _work(shape: str, count: int) -> tuple[Work, torch.Tensor]:
    """Pictures, boxes and what the definition makes of them."""
    made = make_work(shape, count)
    with use_backend("reference"):
        return made, multi_crop(*made.packed(), size=(made.side, made.side), mean=MEAN, std=STD)


def _ours(work: Work, backend: str, dtype: torch.dtype, channels_last: bool, device: str = "cpu") -> Callable[[], Any]:
    """Into one kept buffer, as the input stream does."""
    packed, size = [tensor.to(device) for tensor in work.packed()], (work.side, work.side)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((len(work.boxes), 3, *size), dtype=dtype, memory_format=layout, device=device)

    def run() -> torch.Tensor:
        with use_backend(backend):
            return multi_crop(*packed, size=size, mean=MEAN, std=STD, out=out, validate=False)

    return run


def _check(wanted: torch.Tensor, levels: float) -> Callable[[torch.Tensor], Check]:
    def check(out: torch.Tensor) -> Check:
        error = float((out.float().cpu() - wanted).abs().mean()) / LEVEL
        return Check("mean grey levels off the float32 definition", error, levels)

    return check


def _labels(shape: str, work: Work, name: str, dtype: torch.dtype, backend: str, **more: Any) -> Labels:
    text = f"{len(work.boxes)} crops of 375x500 to {work.side}x{work.side}"
    group = f"multi_crop {shape}" + (" cuda" if more.get("device") == "cuda" else "")
    return Labels(group, name, "multi_crop", text, str(dtype).split(".")[1], backend, **more)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shape", SHAPES)
def test_ddfast(case: Any, bench_size: str, shape: str, name: str) -> None:
    backend, dtype, channels_last = OURS[name]
    if backend not in available_backends("multi_crop"):
        pytest.skip(f"backend {backend} is not available")
    work, wanted = _work(shape, CROPS[bench_size])
    case(
        _ours(work, backend, dtype, channels_last),
        labels=_labels(shape, work, name, dtype, backend),
        work=crops_of(work, dtype.itemsize),
        check=_check(wanted, 1e-3 if dtype == F32 else 0.5),
    )


@pytest.mark.parametrize("name", rivals())
@pytest.mark.parametrize("shape", SHAPES)
def test_baseline(case: Any, bench_size: str, shape: str, name: str) -> None:
    work, wanted = _work(shape, CROPS[bench_size])
    rival = rivals()[name]
    best = available_backends("multi_crop")[0]
    case(
        lambda: rival.run(work),
        labels=_labels(shape, work, name, F32, name, baseline=rival.baseline),
        work=crops_of(work, 4),
        check=_check(wanted, rival.levels),
        ddfast=_ours(work, best, F32, False),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["triton", "torch"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda(case: Any, bench_size: str, shape: str, dtype: torch.dtype, backend: str) -> None:
    work, wanted = _work(shape, GPU_CROPS[bench_size])
    name = f"{backend}-{str(dtype).split('.')[1]}-channels_last"
    ours, rival = _ours(work, "triton", dtype, True, "cuda"), backend == "torch"
    torch_way = {"baseline": package("torch")} if rival else {}
    case(
        _torch_on_gpu(work, dtype) if rival else ours,
        labels=_labels(shape, work, name, dtype, backend, device="cuda", **torch_way),
        work=crops_of(work, dtype.itemsize),
        check=_check(wanted, 1e-3 if dtype == F32 else 0.5),
        ddfast=ours if rival else None,
    )


def _torch_on_gpu(work: Work, dtype: torch.dtype) -> Callable[[], torch.Tensor]:
    """What one writes with torch: boxes on the host, pictures on the GPU turned into floats once, a resize a crop."""
    pictures = [torch.from_numpy(picture).cuda() for picture in work.pictures]
    boxes = [[box for box, i in zip(work.boxes, work.index, strict=True) if i == k] for k in range(len(pictures))]

    def run() -> torch.Tensor:
        crops = [float_crops(to_float(p), b, work.side) for p, b in zip(pictures, boxes, strict=True)]
        return torch.cat(crops).to(dtype, memory_format=torch.channels_last)

    return run
