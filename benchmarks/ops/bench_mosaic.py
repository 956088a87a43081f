"""mosaic against its plain-torch definition and Pillow on one core; on the GPU where there is one.

taskset -c 0 pytest benchmarks/ops/bench_mosaic.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.ops.crop_work import Work, crops_of, make_work
from benchmarks.records import Labels
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.ops import available_backends, mosaic, use_backend

PATCHES = {"smoke": 8, "medium": 40, "full": 80}
ROUNDINGS = ("nearest", "truncate")
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _work(count: int) -> Work:
    return make_work("rded-112", count)


def _run(work: Work, rounding: str, backend: str, device: str = "cpu") -> Callable[[], torch.Tensor]:
    packed = [tensor.to(device) for tensor in work.packed()]

    def run() -> torch.Tensor:
        with use_backend(backend):
            return mosaic(*packed, size=224, factor=2, rounding=rounding, validate=False)

    return run


def _pillow(work: Work) -> torch.Tensor:
    """Resize with a box and paste, 8-bit fixed point."""
    images = [Image.fromarray(picture) for picture in work.pictures]
    out = []
    for first in range(0, len(work.boxes), 4):
        canvas = Image.new("RGB", (224, 224))
        for cell in range(4):
            top, left, height, width = work.boxes[first + cell]
            box = (left, top, left + width, top + height)
            patch = images[work.index[first + cell]].resize((112, 112), Image.Resampling.BILINEAR, box=box)
            canvas.paste(patch, (112 * (cell % 2), 112 * (cell // 2)))
        out.append(np.asarray(canvas))
    return torch.from_numpy(np.stack(out))


def _check(work: Work, rounding: str) -> Callable[[torch.Tensor], Check]:
    def check(out: torch.Tensor) -> Check:
        off = (out.cpu().int() - _run(work, rounding, "reference")().int()).abs()
        share = float((off > 0).float().mean())
        return Check(
            "share of bytes off the definition, none by more than 1", share if int(off.max()) <= 1 else 1.0, 1e-4
        )

    return check


def _labels(work: Work, rounding: str, name: str, **more: Any) -> Labels:
    shape = f"{len(work.boxes)} patches of 112 into 2x2 mosaics of 224"
    group = f"mosaic {rounding}" + (" cuda" if more.get("device") == "cuda" else "")
    return Labels(group, name, "mosaic", shape, "uint8", name, **more)


@pytest.mark.parametrize("backend", ["cpp", "reference"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_mosaic(case: Any, bench_size: str, rounding: str, backend: str) -> None:
    if backend not in available_backends("mosaic"):
        pytest.skip(f"backend {backend} is not available")
    work = _work(PATCHES[bench_size])
    torch_way = {"baseline": package("torch")} if backend == "reference" else {}
    case(
        _run(work, rounding, backend),
        labels=_labels(work, rounding, backend, **torch_way),
        work=crops_of(work, 1, "patch"),
        check=_check(work, rounding),
        ddfast=_run(work, rounding, available_backends("mosaic")[0]) if torch_way else None,
    )


def test_pillow(case: Any, bench_size: str) -> None:
    """8-bit intermediate rounding: another definition of the same job, so only the mean difference is bounded."""
    work = _work(PATCHES[bench_size])
    wanted = _run(work, "nearest", "reference")().float()
    case(
        lambda: _pillow(work),
        labels=_labels(work, "nearest", "pillow", baseline=package("pillow")),
        work=crops_of(work, 1, "patch"),
        check=lambda out: Check("mean grey levels off the definition", float((out.float() - wanted).abs().mean()), 1.0),
        ddfast=_run(work, "nearest", available_backends("mosaic")[0]),
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_cuda(case: Any, bench_size: str, backend: str) -> None:
    work = _work(8 * PATCHES[bench_size])
    case(
        _run(work, "nearest", backend, "cuda"),
        labels=_labels(work, "nearest", backend, device="cuda"),
        work=crops_of(work, 1, "patch"),
        check=_check(work, "nearest"),
    )
