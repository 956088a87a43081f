"""Compiles the shipped Triton kernels for GPU targets and prints their resources as JSON; runs without a GPU.

A program of its own: the process must not have TRITON_INTERPRET set, which changes what ``triton.jit`` makes.
Usage: ``compile_kernels.py ARCH [PREFIX]``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ddfast.ops._antialias.triton_kernels import ROWS
from ddfast.ops.crop_score.triton_kernels import blocks, crop_score_kernel
from ddfast.ops.mosaic.triton_kernels import mosaic_kernel
from ddfast.ops.multi_crop.triton_kernels import multi_crop_kernel

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
RAGGED = {"pixels": "*u8", "total": "i64", "offsets": "*i64", "sizes": "*i32", "count": "i32", "boxes": "*i32"}
RAGGED |= {"image_index": "*i32"}
Config = tuple[str, Any, dict[str, str], dict[str, Any]]  # name, kernel, argument types, constants


def configs() -> Iterator[Config]:
    """Every combination of dtype, layout and tile that the wrappers launch, the common ones of crop_score."""
    for dtype in ("fp32", "bf16", "fp16"):
        for layout, one in (("planar", "stride_w"), ("packed", "stride_c")):
            for lanes in (64, 128):
                types = RAGGED | {"out": f"*{dtype}"}
                yield f"multi_crop-{dtype}-{layout}-{lanes}", multi_crop_kernel, types, {one: 1, "LANES": lanes}
    for lanes in (64, 128):
        for truncate in (False, True):
            constants = {"TRUNCATE": truncate, "LANES": lanes}
            yield f"mosaic-{'truncate' if truncate else 'nearest'}-{lanes}", mosaic_kernel, RAGGED | {"out": "*u8"}, constants
    pointers = {"labels": "*i64", "loss": "*fp32", "best_loss": "*fp32", "best_index": "*i64"}
    for dtype, literal, m, classes in (("fp32", False, 5, 1000), ("fp32", True, 5, 1000), ("bf16", False, 5, 1000),
                                       ("fp16", False, 5, 1000), ("fp32", False, 1, 10), ("fp32", False, 20, 21841)):  # fmt: skip
        crops, block = blocks(m, classes)
        name = f"crop_score-{dtype}-{'literal' if literal else 'exact'}-{crops}x{block}"
        types = {"logits": f"*{dtype}"} | pointers
        yield name, crop_score_kernel, types, {"LITERAL": literal, "CROPS": crops, "BLOCK": block}


def compile_one(kernel: Any, types: dict[str, str], constants: dict[str, Any], arch: int) -> dict[str, Any]:
    """Resources of one kernel on one target; integers are i32 and floats fp32 unless ``types`` says otherwise."""
    constants = {"ROWS": ROWS, **constants} if "ROWS" in kernel.arg_names else dict(constants)
    floats = ("scale", "bias", "mean", "std", "inverse", "canvas_value")
    signature = {
        name: "constexpr" if name in constants else types.get(name, "fp32" if name.startswith(floats) else "i32")
        for name in kernel.arg_names
    }
    aligned = [i for i, name in enumerate(kernel.arg_names) if signature[name].startswith("*")]
    attributes = {(i,): [["tt.divisibility", 16]] for i in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    start = time.perf_counter()
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": 4})
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run([TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = {key: int(re.search(rf"{key}:(\d+)", usage.stdout)[1]) for key in ("REG", "STACK")}  # type: ignore[index]
    ptx = compiled.asm["ptx"]
    return {
        "registers": found["REG"],
        "stack": found["STACK"],
        "shared": compiled.metadata.shared,
        "tensor_core": any(word in ptx for word in ("mma.sync", "wgmma", "tcgen05")),
        "seconds": round(seconds, 2),
    }


def main(arch: int, prefix: str = "") -> None:
    results = {
        name: compile_one(kernel, types, constants, arch)
        for name, kernel, types, constants in configs()
        if name.startswith(prefix)
    }
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
