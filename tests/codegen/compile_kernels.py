"""Compiles the Triton kernels for a GPU target as the wrappers launch them, and prints their resources as JSON.

No GPU is needed: a stand-in for Triton's driver names the target, and launches stop after compiling.  A program of its
own, since TRITON_INTERPRET must not be set.  Usage: ``compile_kernels.py ARCH...``; one line of output per target.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import ddfast.ops  # noqa: F401 (registers the ops)
from ddfast.ops._registry import OPS

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
Case = tuple[str, Callable[[], Any]]


class Target:
    """What Triton asks its driver for before it compiles."""

    def __init__(self, arch: int) -> None:
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch  # Triton keeps what it compiled per device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


def ragged(m: int) -> tuple[torch.Tensor, ...]:
    sizes, boxes = torch.full((m, 2), 40, dtype=torch.int32), torch.zeros(m, 4, dtype=torch.int32)
    index = torch.zeros(m, dtype=torch.int32)
    return torch.zeros(4800 * m, dtype=torch.uint8), torch.arange(m) * 4800, sizes, boxes, index


def cases() -> Iterator[Case]:
    """Every dtype and layout on the wide tile, the narrow tile once per kind of store, and sizes of one."""

    def crop(m: int, side: int, dtype: torch.dtype, packed: bool) -> Callable[[], Any]:
        return lambda: run("multi_crop", *ragged(m), [side, side], MEAN, STD, None, 0.0, dtype, packed, 1)

    def mosaic(size: int, factor: int, how: str) -> Callable[[], Any]:
        return lambda: run("mosaic", *ragged(factor**2), size, factor, how, MEAN, STD, 1)

    def views(side: int, dtype: torch.dtype, packed: bool, mixup: bool = False) -> Callable[[], Any]:
        n, images = 4, torch.zeros(8, 40, 40, 3, dtype=torch.uint8)
        strips, boxes, shift = (torch.zeros(n, k, dtype=torch.int32) for k in (2, 4, 2))
        index, flip = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.bool)
        draws = (index, strips, strips, boxes, flip, shift, index, boxes[0])
        return lambda: run("augment_batch", images, *draws, 0.5, [side, side], MEAN, STD, mixup, dtype, packed, 1)

    def score(n: int, m: int, classes: int, dtype: torch.dtype, literal: bool = False) -> Callable[[], Any]:
        logits = torch.zeros(n, m, classes, dtype=dtype)
        return lambda: run("crop_score", logits, torch.zeros(n, dtype=torch.int64), literal)

    def loss(n: int, classes: int, dtype: torch.dtype, k: int = 0, hard: bool = False) -> Callable[[], Any]:
        labels = torch.zeros(n, dtype=torch.int64) if hard else None
        logits = torch.zeros(n, classes, dtype=dtype)
        kept = (logits[:, :k].half(), torch.zeros(n, k, dtype=torch.int64), torch.zeros(n).half())
        teacher = kept if k else (logits.half(), None, None)
        weights = (0.0, False, 1.0, 0.025) if hard else (1.0, True, 0.0, 0.0)
        return lambda: run("soft_label_loss", logits, *teacher, labels, 20.0, *weights, True)

    def siamese(op: str, c: int, side: int, dtype: torch.dtype, packed: bool = False) -> Callable[[], Any]:
        images = torch.zeros(2, c, side, side, dtype=dtype)
        images = images.contiguous(memory_format=torch.channels_last) if packed else images
        params = torch.zeros(2, 13, dtype=torch.float64)
        return lambda: run(op, images, params, *([True] if op == "dsa" else []))

    def mmd(op: str, n: int, d: int, dtype: torch.dtype, both: bool = False) -> Callable[[], Any]:
        x, y = torch.zeros(2, n, d, dtype=dtype), torch.zeros(2, n + 1, d, dtype=dtype)
        options = (x, y, torch.ones(2, 5), True, True)
        if op == "mmd":
            return lambda: run(op, *options, 1 + both)
        weights = torch.zeros(2, 2 * n + 1 if both else n, 2 * n + 1)
        return lambda: run(op, torch.ones(2), weights, *options, both)

    low = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    for name, dtype in low.items():
        yield f"multi_crop-{name}-planar-112", crop(4, 112, dtype, False)
        yield f"multi_crop-{name}-packed-112", crop(4, 112, dtype, True)
        yield f"augment_batch-{name}-planar-224", views(224, dtype, False)
        yield f"augment_batch-{name}-packed-224", views(224, dtype, True)
        yield f"crop_score-{name}-5x1000", score(4, 5, 1000, dtype)
        yield f"soft_label_loss-{name}-1000", loss(4, 1000, dtype)
        yield f"soft_label_loss-{name}-1000-top10", loss(4, 1000, dtype, k=10)
    for op in ("dsa", "dsa_adjoint"):
        yield f"{op}-fp32-planar-3x32", siamese(op, 3, 32, torch.float32)
        yield f"{op}-bf16-packed-3x224", siamese(op, 3, 224, torch.bfloat16, True)
        yield f"{op}-fp16-planar-16x24", siamese(op, 16, 24, torch.float16)
        yield f"{op}-fp32-1x1", siamese(op, 1, 1, torch.float32)
    for op in ("mmd", "mmd_backward"):
        yield f"{op}-bf16-30x2048", mmd(op, 30, 2048, torch.bfloat16)
        yield f"{op}-fp32-30x2048", mmd(op, 30, 2048, torch.float32)
        yield f"{op}-fp16-both-2x1", mmd(op, 2, 1, torch.float16, both=True)
        yield f"{op}-fp32-both-100x512", mmd(op, 100, 512, torch.float32, both=True)
    yield "multi_crop-fp32-planar-16", crop(4, 16, torch.float32, False)
    yield "multi_crop-bf16-packed-1", crop(1, 1, torch.bfloat16, True)
    yield "augment_batch-bf16-packed-16", views(16, torch.bfloat16, True)
    yield "augment_batch-fp32-packed-1", views(1, torch.float32, True)
    yield "augment_batch-fp32-mixup-224", views(224, torch.float32, True, mixup=True)
    yield "augment_batch-bf16-mixup-32", views(32, torch.bfloat16, True, mixup=True)
    for how in ("nearest", "truncate"):
        yield f"mosaic-{how}-224", mosaic(224, 2, how)
    yield "mosaic-nearest-1", mosaic(1, 1, "nearest")
    yield "crop_score-fp32-literal-5x1000", score(4, 5, 1000, torch.float32, True)
    yield "crop_score-fp32-1x10", score(1, 1, 10, torch.float32)
    yield "crop_score-fp32-20x1", score(1, 20, 1, torch.float32)
    yield "soft_label_loss-fp32-mse_gt-1000", loss(4, 1000, torch.float32, hard=True)
    yield "soft_label_loss-fp32-mse_gt-10450-top100", loss(4, 10450, torch.float32, k=100, hard=True)
    yield "soft_label_loss-fp32-1", loss(1, 1, torch.float32)
    yield "soft_label_loss-fp32-10-top1", loss(1, 10, torch.float32, k=1)


def run(op: str, *args: Any) -> Any:
    return OPS[op].backends["triton"].run(*args)


def resources(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = {key: int(re.search(rf"{key}:(\d+)", usage.stdout)[1]) for key in ("REG", "STACK")}  # type: ignore[index]
    tensor_core = any(word in kernel.asm["ptx"] for word in ("mma.sync", "wgmma", "tcgen05"))
    return {
        "registers": found["REG"],
        "stack": found["STACK"],
        "shared": kernel.metadata.shared,
        "tensor_core": tensor_core,
    }


def main(archs: list[int]) -> None:
    compiled: list[Any] = []
    launch = JITFunction.run

    def compile_only(self: Any, *args: Any, **kwargs: Any) -> Any:
        compiled.append(launch(self, *args, **{**kwargs, "warmup": True}))
        return compiled[-1]

    JITFunction.run = compile_only
    for arch in archs:
        triton.runtime.driver.set_active(Target(arch))
        compiled.clear()
        results = {}
        for name, call in cases():
            call()
            results[name] = resources(compiled[-1])
        assert len(compiled) == len(results), "a wrapper did not launch its kernel once"
        print(json.dumps({"arch": arch, "kernels": results}))


if __name__ == "__main__":
    main([int(a) for a in sys.argv[1:]])
