"""augment_batch against RDED's training transform, torchvision and torch on one core; on the GPU where there is one.

Ratios: the rival, spared the drawing of its parameters, over ddfast with the drawing.

taskset -c 0 pytest benchmarks/ops/bench_augment_batch.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from benchmarks.ops.crop_work import LEVEL, MEAN, STD
from benchmarks.ops.view_rivals import RIVALS, Work, make_work
from benchmarks.records import Labels
from ddfast.bench.floor import Work as Job
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.bench.work import crops
from ddfast.ops import augment_batch, available_backends, use_backend
from ddfast.train.views import Views

BATCHES = {
    "imagenet-224": {"smoke": 10, "medium": 50, "full": 100},
    "cifar-32": {"smoke": 50, "medium": 50, "full": 50},
}
GPU_BATCHES = {
    "imagenet-224": {"smoke": 10, "medium": 100, "full": 400},
    "cifar-32": {"smoke": 50, "medium": 50, "full": 1000},
}
F32, BF16 = torch.float32, torch.bfloat16
STEPS = [(step,) for step in range(4)]  # other samples and draws, in turn
OURS = {
    "cpp-float32": ("cpp", F32, True, False),
    "cpp-float32-drawn": ("cpp", F32, True, True),
    "cpp-float32-planar": ("cpp", F32, False, False),
    "cpp-bfloat16": ("cpp", BF16, True, False),
    "reference-float32": ("reference", F32, True, False),
}
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _work(shape: str, batch: int) -> tuple[Work, list[Views], list[torch.Tensor]]:
    """The set, the draws of each step, and what the definition makes of them."""
    made = make_work(shape, batch)
    drawn = [made.draw(*step) for step in STEPS]
    with use_backend("reference"):
        return made, drawn, [_render(made.images, made, views, F32, True) for views in drawn]


def _render(images: torch.Tensor, work: Work, views: Views, dtype: torch.dtype, channels_last: bool) -> torch.Tensor:
    return augment_batch(
        images, views.index, views.columns, views.rows, views.boxes, views.flip, views.shift, views.partner,
        views.mix_box, views.share, size=work.config.size, mean=MEAN, std=STD, dtype=dtype, channels_last=channels_last,
        validate=False,
    )  # fmt: skip


def _ours(
    work: Work,
    drawn: list[Views],
    backend: str,
    dtype: torch.dtype,
    channels_last: bool,
    draw: bool,
    device: str = "cpu",
) -> Callable[[int], torch.Tensor]:
    """Views of one step; ``draw``: their parameters are drawn anew, as a training step does."""
    images = work.images.to(device)
    ready = [views.to(images.device) for views in drawn]

    def run(step: int) -> torch.Tensor:
        with use_backend(backend):
            views = work.draw(step).to(images.device) if draw else ready[step]
            return _render(images, work, views, dtype, channels_last)

    return run


def _turns(run: Callable[[int], torch.Tensor]) -> Callable[[], torch.Tensor]:
    steps = itertools.cycle(STEPS)
    return lambda: run(*next(steps))


def _check(wanted: list[torch.Tensor], levels: float) -> Callable[[torch.Tensor, int], Check]:
    def check(out: torch.Tensor, step: int) -> Check:
        error = float((out.float().cpu() - wanted[step]).abs().mean()) / LEVEL
        return Check("mean grey levels off the float32 definition", error, levels)

    return check


def _job(work: Work, views: Views, itemsize: int) -> Job:
    """One read of each picture, one write of each view; the filter where the crop is not the picture itself."""
    pictures, index = [work.images[0].numel()] * len(work.images), views.index.tolist()
    job = crops(views.boxes.tolist(), index, pictures, work.side, itemsize)
    flops = job.flops if work.config.scale else 2.0 * 3 * work.side**2 * len(index)
    return Job(len(index), "view", job.bytes, flops)


def _labels(shape: str, work: Work, name: str, dtype: torch.dtype, backend: str, **more: Any) -> Labels:
    text = f"{work.batch} views of {work.side}x{work.side}, factor {work.config.factor}, CutMix"
    group = f"augment_batch {shape}" + (" cuda" if more.get("device") == "cuda" else "")
    return Labels(group, name, "augment_batch", text, str(dtype).split(".")[1], backend, **more)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("shape", BATCHES)
def test_ddfast(case: Any, bench_size: str, shape: str, name: str) -> None:
    backend, dtype, channels_last, draw = OURS[name]
    if backend not in available_backends("augment_batch"):
        pytest.skip(f"backend {backend} is not available")
    work, drawn, wanted = _work(shape, BATCHES[shape][bench_size])
    case(
        _ours(work, drawn, backend, dtype, channels_last, draw),
        inputs=STEPS,
        labels=_labels(shape, work, name, dtype, backend),
        work=_job(work, drawn[0], dtype.itemsize),
        check=_check(wanted, 1e-3 if dtype == F32 else 0.5),
        notes=lambda: {"parameters_drawn": draw},
    )


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.parametrize("shape", BATCHES)
def test_baseline(case: Any, bench_size: str, shape: str, name: str) -> None:
    work, drawn, wanted = _work(shape, BATCHES[shape][bench_size])
    run, baseline, levels = RIVALS[name]
    best = available_backends("augment_batch")[0]
    case(
        lambda step: run(work, drawn[step]),
        inputs=STEPS,
        labels=_labels(shape, work, name, F32, name, baseline=baseline),
        work=_job(work, drawn[0], 4),
        check=_check(wanted, levels),
        ddfast=_turns(_ours(work, drawn, best, F32, True, draw=True)),
        notes=lambda: {"parameters_drawn": False, "ddfast_parameters_drawn": True},
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", BATCHES)
def test_cuda(case: Any, bench_size: str, shape: str, dtype: torch.dtype, backend: str) -> None:
    work, drawn, wanted = _work(shape, GPU_BATCHES[shape][bench_size])
    name = f"{backend}-{str(dtype).split('.')[1]}"
    torch_way = {"baseline": package("torch")} if backend == "reference" else {}
    ours = functools.partial(_ours, work, drawn, channels_last=True, draw=False, device="cuda")
    case(
        ours(backend, dtype),
        inputs=STEPS,
        labels=_labels(shape, work, name, dtype, backend, device="cuda", **torch_way),
        work=_job(work, drawn[0], dtype.itemsize),
        check=_check(wanted, 1e-3 if dtype == F32 else 0.5),
        ddfast=_turns(ours("triton", dtype)) if torch_way else None,
    )
