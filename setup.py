"""Builds the torch-free native modules: ddfast._cpu on x86-64 Linux, ddfast._cuda when nvcc is there and wanted.

Environment: DDFAST_CPU=auto|portable|0, DDFAST_CUDA=auto|1|0, DDFAST_CUDA_ARCHS (numbers without a dot; default: those
of "80;86;89;90;100;120" that nvcc knows), DDFAST_CUDA_HOME, MAX_JOBS. With DDFAST_CUDA=auto a CUDA module that does not
compile is left out with a warning. Elsewhere than on x86-64 Linux DDFAST_CPU=auto builds nothing, needs no compiler,
and gives a wheel of Python alone, whose ops run on the plain-torch reference; DDFAST_CPU=portable compiles the same
kernels as plain C++ for any 64-bit processor.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ROOT = Path(__file__).parent.resolve()
CPU = os.environ.get("DDFAST_CPU", "auto")
if CPU not in {"auto", "portable", "0"}:
    raise SystemExit(f"DDFAST_CPU={CPU!r}: expected auto, portable or 0")
TUNED = platform.system() == "Linux" and platform.machine() == "x86_64"
X86 = TUNED and CPU == "auto"
# One object per instruction set and source; the choice is made at run time (csrc/common/isa.h).
ISA_FLAGS: dict[str, list[str]] = (
    {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4", "-mprefer-vector-width=512"]} if X86 else {"generic": []}
)
# Maths without errno and traps lets loops vectorise; -ffast-math would flush denormals in the whole process.
CXX_FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wall",
    "-Wextra",
]
CUDA_ARCHS = ("80", "86", "89", "90", "100", "120")
WANTED_ARCHS = [arch.strip() for arch in os.environ.get("DDFAST_CUDA_ARCHS", "").split(";") if arch.strip()]
if not all(re.fullmatch(r"\d{2,3}[af]?", arch) for arch in WANTED_ARCHS):
    raise SystemExit(
        f"DDFAST_CUDA_ARCHS={os.environ['DDFAST_CUDA_ARCHS']!r}: expected numbers without a dot and semicolons "
        "between them, such as 80;90"
    )


def sources(pattern: str) -> list[str]:
    return sorted(os.path.relpath(p, ROOT) for p in glob(str(ROOT / "csrc" / pattern)))


def find_nvcc() -> str | None:
    mode = os.environ.get("DDFAST_CUDA", "auto" if CPU == "auto" else "0")
    if mode not in {"auto", "0", "1"}:
        raise SystemExit(f"DDFAST_CUDA={mode!r}: expected auto, 1 or 0")
    home = os.environ.get("DDFAST_CUDA_HOME") or os.environ.get("CUDA_HOME")
    nvcc = None if mode == "0" else shutil.which("nvcc", path=f"{home}/bin" if home else None)
    if mode == "1" and nvcc is None:
        raise SystemExit("DDFAST_CUDA=1 but nvcc was not found: put it on PATH or set DDFAST_CUDA_HOME")
    return nvcc


NVCC = find_nvcc()


def cuda_archs() -> list[str]:
    """DDFAST_CUDA_ARCHS as given; else the usual ones that this nvcc knows (100 and 120 came with CUDA 12.8)."""
    if WANTED_ARCHS:
        return WANTED_ARCHS
    try:
        listed = subprocess.run([str(NVCC), "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise CompileError(
            f"{NVCC} --list-gpu-arch failed ({error}); set DDFAST_CUDA_ARCHS or DDFAST_CUDA=0"
        ) from error
    archs = [arch for arch in CUDA_ARCHS if f"compute_{arch}" in listed.split()]
    if not archs:
        raise CompileError(
            f"{NVCC} knows none of sm_{', sm_'.join(CUDA_ARCHS)}; set DDFAST_CUDA_ARCHS or DDFAST_CUDA=0"
        )
    return archs


class BuildNative(build_ext):
    """Compiles kernels once per instruction set with the C++ compiler, and the CUDA module with nvcc, in parallel."""

    def build_extension(self, ext: Extension) -> None:
        self.temp = Path(self.build_temp) / ext.name
        self.temp.mkdir(parents=True, exist_ok=True)
        compile_all = self.cuda_jobs if ext.name.endswith("_cuda") else self.cxx_jobs
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = list(pool.map(lambda job: job(), compile_all(ext)))
        if ext.name.endswith("_cuda"):
            target = Path(self.get_ext_fullpath(ext.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            home = Path(str(NVCC)).resolve().parent.parent
            libraries = [f"-L{home / name}" for name in ("lib64", "lib") if (home / name).is_dir()]
            self.spawn([NVCC, "-shared", "-cudart=static", *libraries, *objects, "-o", str(target)])
            return
        ext.extra_objects, ext.sources = objects, []
        super().build_extension(ext)

    def cxx_jobs(self, ext: Extension) -> list[Callable[[], str]]:
        def job(source: str, tag: str, flags: list[str]) -> Callable[[], str]:
            options = {"include_dirs": ext.include_dirs, "macros": ext.define_macros}
            out = str(self.temp / tag)
            return lambda: self.compiler.compile([source], out, extra_postargs=[*CXX_FLAGS, *flags], **options)[0]

        kernels = sources("*/*_cpu.cpp")
        if not kernels:
            raise SystemExit(f"{ROOT / 'csrc'}: no */*_cpu.cpp found; this source tree is incomplete, get it anew")
        jobs = [job(s, "module", []) for s in ext.sources]
        for source in kernels:
            jobs += [job(source, isa, [*flags, f"-DDDFAST_ISA={isa}"]) for isa, flags in ISA_FLAGS.items()]
        return jobs

    def cuda_jobs(self, ext: Extension) -> list[Callable[[], str]]:
        archs = cuda_archs()
        codes = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")
        includes = [f"-I{d}" for d in [*ext.include_dirs, *self.compiler.include_dirs]]

        def job(source: str, flags: list[str]) -> Callable[[], str]:
            out = str(self.temp / (Path(source).name + ".o"))
            command = [NVCC, "-std=c++17", "-O3", "-Xcompiler=-fPIC,-fvisibility=hidden,-g0", *includes, *flags]
            return lambda: self.spawn([*command, "-c", source, "-o", out]) or out

        return [job(s, []) for s in ext.sources] + [job(s, codes) for s in sources("*/*_cuda.cu")]


NATIVE_INCLUDES = ["csrc", pybind11.get_include()]
cpu_module = [
    Extension("ddfast._cpu", sources("bindings/cpu_module.cpp") + sources("bindings/parallel.cpp"), language="c++",
              depends=sources("*/*"), include_dirs=NATIVE_INCLUDES, libraries=["pthread"],
              define_macros=[("DDFAST_X86", "1")] if X86 else []),
]  # fmt: skip
modules = cpu_module if X86 or CPU == "portable" else []
if NVCC:
    # optional: build_ext then reports a failed compilation as a warning and goes on without the module
    optional = os.environ.get("DDFAST_CUDA", "auto") == "auto"
    cuda_sources = ["csrc/bindings/cuda_module.cpp"]
    modules.append(
        Extension("ddfast._cuda", cuda_sources, depends=sources("*/*"), include_dirs=NATIVE_INCLUDES, optional=optional)
    )

setup(ext_modules=modules, cmdclass={"build_ext": BuildNative})
