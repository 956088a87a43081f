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

from ddfast.ops._antialias.triton_kernels import LAUNCH, ROWS
from ddfast.ops.crop_score.triton_kernels import LAUNCH as SCORE_LAUNCH
from ddfast.ops.crop_score.triton_kernels import blocks, crop_score_kernel
from ddfast.ops.mosaic.triton_kernels import mosaic_kernel
from ddfast.ops.multi_crop.triton_kernels import multi_crop_kernel

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
RAGGED = {"pixels": "*u8", "total": "i64", "offsets": "*i64", "sizes": "*i32", "count": "i32", "boxes": "*i32"}
RAGGED |= {"image_index": "*i32"}
Config = tuple[str, Any, dict[str, str], dict[str, Any]]  # name, kernel, argument types, constants


def configs() -> Iterator[Config]:
    """What the wrappers launch: every dtype and layout on the wide tile, the narrow tile once per kind of store."""
    for dtype in ("fp32", "bf16", "fp16"):
        for layout, one in (("planar", "stride_w"), ("packed", "stride_c")):
            for lanes in (64, 128) if (dtype, layout) in (("fp32", "planar"), ("bf16", "packed")) else (128,):
                types = RAGGED | {"out": f"*{dtype}"}
                yield f"multi_crop-{dtype}-{layout}-{lanes}", multi_crop_kernel, types, {one: 1, "LANES": lanes}
    for truncate, lanes in ((False, 64), (False, 128), (True, 128)):
        name = f"mosaic-{'truncate' if truncate else 'nearest'}-{lanes}"
        yield name, mosaic_kernel, RAGGED | {"out": "*u8"}, {"TRUNCATE": truncate, "LANES": lanes}
    pointers = {"labels": "*i64", "loss": "*fp32", "best_loss": "*fp32", "best_index": "*i64"}
    scores = [("fp32", literal, 5, 1000) for literal in (False, True)] + [("fp32", False, 1, 10)]
    scores += [(dtype, False, 5, 1000) for dtype in ("bf16", "fp16")]
    for dtype, literal, m, classes in scores:
        crops, block = blocks(m, classes)
        name = f"crop_score-{dtype}-{'literal' if literal else 'exact'}-{crops}x{block}"
        types = {"logits": f"*{dtype}"} | pointers
        yield name, crop_score_kernel, types, {"LITERAL": literal, "CROPS": crops, "BLOCK": block}


def compile_one(kernel: Any, types: dict[str, str], constants: dict[str, Any], arch: int) -> dict[str, Any]:
    """Resources of one kernel on one target; integers are i32 and floats fp32 unless ``types`` says otherwise."""
    options = LAUNCH if "ROWS" in kernel.arg_names else SCORE_LAUNCH
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
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    seconds = time.perf_counter() - start
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
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
