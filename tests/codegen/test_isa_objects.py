"""Kernels compiled per instruction set share no symbol, so that no AVX-512 code can run on an AVX2 processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
KERNELS = sorted(ROOT.glob("csrc/*/*_cpu.cpp"))

pytestmark = [
    pytest.mark.codegen,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="instruction sets are chosen at run time on x86-64 only"),
    pytest.mark.skipif(not (shutil.which("g++") and shutil.which("nm")), reason="needs g++ and nm"),
]


@pytest.mark.parametrize("source", KERNELS, ids=lambda p: p.stem)
def test_objects_define_only_their_own_namespace(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "kernel.o"
    subprocess.run(
        ["g++", "-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math",
         "-march=x86-64-v4", "-mprefer-vector-width=512", "-DDDFAST_X86=1", "-DDDFAST_ISA=v4",
         f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(out)], check=True,
    )  # fmt: skip
    listing = subprocess.run(["nm", "-C", "--defined-only", str(out)], check=True, capture_output=True, text=True)
    symbols = [line.split(maxsplit=2)[1:] for line in listing.stdout.splitlines()]
    code = [name for kind, name in symbols if kind in "WVuT" and not name.startswith("DW.ref.")]
    assert [name for name in code if "ddfast::v4::" in name]
    assert not [name for name in code if "ddfast::v4::" not in name]
