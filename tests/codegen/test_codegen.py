"""Every shipped GPU kernel compiles for the supported GPUs without spilling; no GPU needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ARCHS = (80, 86, 89, 90, 100, 120)
SHARED_LIMIT = 99 * 1024  # bytes a block may use on sm_86, 89 and 120, the smallest of the supported GPUs

REGISTERS = {"crop_score": 64, "plane_block": 128}  # a thread: 128 leave room for two blocks of 256 threads

pytestmark = pytest.mark.codegen


Report = dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def triton_reports(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Report]:
    """Resources of every kernel per target, compiled by two processes at once."""
    pytest.importorskip("triton")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton")), "PYTHONPATH": str(ROOT)}
    program = str(Path(__file__).with_name("compile_kernels.py"))

    def compile_for(archs: tuple[int, ...]) -> list[str]:
        command = [sys.executable, program, *map(str, archs)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with ThreadPoolExecutor(2) as pool:
        lines = [json.loads(line) for part in pool.map(compile_for, (ARCHS[::2], ARCHS[1::2])) for line in part]
    return {line["arch"]: line["kernels"] for line in lines}


@pytest.mark.slow
@pytest.mark.parametrize("arch", ARCHS)
def test_triton_kernels_fit(triton_reports: dict[int, Report], arch: int) -> None:
    report = triton_reports[arch]
    resizing = {"multi_crop", "mosaic", "augment_batch"}
    products = {*resizing, "mmd", "mmd_backward"}
    plain = {"crop_score", "soft_label_loss", "dsa", "dsa_adjoint"}
    assert {name.split("-")[0] for name in report} == products | plain
    for name, use in report.items():
        assert use["stack"] == 0, f"{name} spills {use['stack']} bytes per thread"
        assert use["registers"] <= 128, f"{name} takes {use['registers']} registers, 4 warps x 4 blocks allow 128"
        assert use["shared"] <= SHARED_LIMIT, f"{name} takes {use['shared']} bytes of shared memory"
    assert all(use["tensor_core"] for name, use in report.items() if name.split("-")[0] in products)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("source", sorted((ROOT / "csrc").glob("*/*_cuda.cu")), ids=lambda p: p.stem)
def test_cuda_kernels_do_not_spill(source: Path, arch: int, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not on PATH")
    command = [nvcc, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-cubin", f"-arch=sm_{arch}", "-Xptxas", "-v", "-o"]
    done = subprocess.run(
        [*command, str(tmp_path / "k.cubin"), str(source)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", done.stderr)]
    registers = [int(n) for n in re.findall(r"Used (\d+) registers", done.stderr)]
    assert max(spills) == 0, done.stderr
    assert max(registers) <= REGISTERS[source.parent.name], done.stderr
