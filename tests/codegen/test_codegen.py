"""Every shipped GPU kernel compiles for the supported GPUs without spilling; no GPU needed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ARCHS = (80, 86, 89, 90, 100, 120)
SHARED_LIMIT = 99 * 1024  # bytes a block may use on sm_86, 89 and 120, the smallest of the supported GPUs

pytestmark = pytest.mark.codegen


@pytest.fixture(scope="module", params=ARCHS)
def triton_report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, int]]:
    pytest.importorskip("triton")
    cache = tmp_path_factory.mktemp("triton")
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    env |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(Path(__file__).with_name("compile_kernels.py")), str(request.param)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_triton_kernels_fit(triton_report: dict[str, dict[str, int]]) -> None:
    assert {name.split("-")[0] for name in triton_report} == {"multi_crop", "mosaic", "crop_score"}
    for name, use in triton_report.items():
        assert use["stack"] == 0, f"{name} spills {use['stack']} bytes per thread"
        assert use["registers"] <= 128, f"{name} takes {use['registers']} registers, 4 warps x 4 blocks allow 128"
        assert use["shared"] <= SHARED_LIMIT, f"{name} takes {use['shared']} bytes of shared memory"


def test_resize_uses_tensor_cores(triton_report: dict[str, dict[str, int]]) -> None:
    assert all(use["tensor_core"] for name, use in triton_report.items() if not name.startswith("crop_score"))


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
    assert max(registers) <= 64, done.stderr
