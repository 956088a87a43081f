"""Builds the two torch-free native modules: ddfast._cpu always, ddfast._cuda when nvcc is there and wanted.

Environment: DDFAST_CUDA=auto|1|0, DDFAST_CUDA_ARCHS (default "80;86;89;90;100;120"), DDFAST_CUDA_HOME, MAX_JOBS.
"""

from __future__ import annotations

import os
import platform
import shutil
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
X86 = platform.machine().lower() in {"x86_64", "amd64"}
# One object per instruction set and source; the choice is made at run time (csrc/common/isa.h).
ISA_FLAGS: dict[str, list[str]] = (
    {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"]} if X86 else {"generic": []}
)
# errno and trap-free maths let loops vectorise; fast-math is left out because linking it flushes denormals process-wide.
CXX_FLAGS = ["-std=c++17", "-O3", "-g0", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra"]


def sources(pattern: str) -> list[str]:
    return sorted(os.path.relpath(p, ROOT) for p in glob(str(ROOT / "csrc" / pattern)))


def find_nvcc() -> str | None:
    mode = os.environ.get("DDFAST_CUDA", "auto")
    if mode not in {"auto", "0", "1"}:
        raise SystemExit(f"DDFAST_CUDA={mode!r}: expected auto, 1 or 0")
    home = os.environ.get("DDFAST_CUDA_HOME") or os.environ.get("CUDA_HOME")
    nvcc = None if mode == "0" else shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if mode == "1" and nvcc is None:
        raise SystemExit("DDFAST_CUDA=1 but nvcc was not found: put it on PATH or set DDFAST_CUDA_HOME")
    return nvcc


NVCC = find_nvcc()


class BuildNative(build_ext):
    """Compiles kernels once per instruction set (C++) or with nvcc (CUDA), in parallel, then links as usual."""

    def build_extension(self, ext: Extension) -> None:
        self.temp = Path(self.build_temp) / ext.name
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            jobs = [pool.submit(self.compile_cxx, ext, s, "module", []) for s in ext.sources]
            for source in getattr(ext, "isa_sources", []):
                for isa, flags in ISA_FLAGS.items():
                    jobs.append(pool.submit(self.compile_cxx, ext, source, isa, [*flags, f"-DDDFAST_ISA={isa}"]))
            jobs += [pool.submit(self.compile_cuda, s) for s in getattr(ext, "cuda_sources", [])]
            ext.extra_objects = [o for job in jobs for o in job.result()]
        ext.sources = []
        super().build_extension(ext)

    def compile_cxx(self, ext: Extension, source: str, tag: str, flags: list[str]) -> list[str]:
        return self.compiler.compile(
            [source], output_dir=str(self.temp / tag), include_dirs=ext.include_dirs, macros=ext.define_macros,
            extra_postargs=[*CXX_FLAGS, *flags],
        )  # fmt: skip

    def compile_cuda(self, source: str) -> list[str]:
        out = self.temp / "cuda" / (Path(source).name + ".o")
        out.parent.mkdir(parents=True, exist_ok=True)
        archs = os.environ.get("DDFAST_CUDA_ARCHS", "80;86;89;90;100;120").split(";")
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        self.spawn([NVCC, "-std=c++17", "-O3", "--threads=2", "-Xcompiler=-fPIC,-fvisibility=hidden", "-Icsrc", *codes,
                    "-c", source, "-o", str(out)])  # fmt: skip
        return [str(out)]


cpu = Extension("ddfast._cpu", ["csrc/bindings/cpu_module.cpp"], include_dirs=["csrc", pybind11.get_include()],
                libraries=["pthread"], language="c++", define_macros=[("DDFAST_X86", "1")] if X86 else [])  # fmt: skip
cpu.isa_sources = sources("*/*_cpu.cpp")
modules = [cpu]
if NVCC:
    cuda_lib = Path(NVCC).resolve().parent.parent / "lib64"
    cuda_include = Path(NVCC).resolve().parent.parent / "include"
    cuda = Extension("ddfast._cuda", ["csrc/bindings/cuda_module.cpp"],
                     include_dirs=["csrc", str(cuda_include), pybind11.get_include()],
                     library_dirs=[str(cuda_lib)], libraries=["cudart_static", "rt", "dl", "pthread"],
                     language="c++")  # fmt: skip
    cuda.cuda_sources = sources("*/*_cuda.cu")
    modules.append(cuda)

setup(ext_modules=modules, cmdclass={"build_ext": BuildNative})
