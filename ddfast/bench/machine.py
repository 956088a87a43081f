"""Describes the machine and the software of a result file; no host names, user names or paths."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

from ddfast import _env, _machine, _native

PACKAGES = (
    "ddfast", "torch", "torchvision", "triton", "numpy", "pillow", "simplejpeg", "openvino", "timm", "cykooz-resizer",
    "opencv-python-headless", "nvidia-dali-cuda130", "nvidia-dali-cuda120", "pytest-benchmark",
)  # fmt: skip
_NOISE = re.compile(r"\((?:r|tm)\)|\b(?:intel|amd|cpu|processor|core|with|ryzen|\d+-core)\b|@.*$", re.IGNORECASE)
_ISA = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
_ISA_NAMES = {"amx_bf16": "amx", "avx512_bf16": "avx512-bf16", "avx512f": "avx512", "avx2": "avx2"}


def describe() -> dict[str, Any]:
    """Slug, processor, cores this process may use, instruction sets, memory, GPU, system, malloc setting, clock."""
    info = _cpuinfo()
    flags = set(info.get("flags", "").split())
    cores = _machine.cores()
    gpu = _gpu()
    isa = [_ISA_NAMES[flag] for flag in _ISA if flag in flags]
    cpu = info.get("model name") or platform.processor() or platform.machine()
    clock = info.get("cpu MHz")
    return {
        "slug": slug(cpu, cores, isa, gpu["name"] if gpu else None),
        "cpu": re.sub(r"\s+", " ", cpu),
        "cores": cores,
        "isa": isa,
        "native_isa": module.isa() if (module := _native.cpu()) else None,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpu,
        "os": _system(),
        "malloc": _malloc(),
        "clock_mhz": round(float(clock)) if clock else None,
    }


def slug(cpu: str, cores: int, isa: list[str], gpu: str | None = None) -> str:
    """``xeon-8481c-2c``: model words, cores, GPU; a model name without a number gets its best instruction set."""
    words = re.findall(r"[a-z0-9]+", _NOISE.sub(" ", cpu).lower()) or ["cpu"]
    if not any(character.isdigit() for word in words for character in word) and isa:
        words.append(isa[0])
    parts = [*words, f"{cores}c"]
    if gpu:
        parts += re.findall(r"[a-z0-9]+", gpu.lower().replace("nvidia", "").replace("geforce", ""))
    return "-".join(parts)


def versions() -> dict[str, str]:
    """Python and those of the packages of interest that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def package(name: str) -> str:
    """Name and version of an installed package, e.g. ``torch 2.15.0``."""
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def _cpuinfo() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    lines = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in lines}


def _gpu() -> dict[str, Any] | None:
    import torch

    if not torch.cuda.is_available():
        return None
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "count": torch.cuda.device_count(),
        "memory_gib": round(found.total_memory / 2**30, 1),
        "compute_capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }


def _system() -> str:
    try:
        release = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        release = ""
    kernel = ".".join(platform.release().split(".")[:2])
    return ", ".join(part for part in (release, f"{platform.system()} {kernel}", "-".join(platform.libc_ver())) if part)


def _malloc() -> str:
    """glibc's defaults cost page faults on every large block, so the setting belongs to the result."""
    try:
        preloaded = ctypes.CDLL(None).mallctl is not None
    except (AttributeError, OSError):
        preloaded = False
    if preloaded:
        return "jemalloc"
    if _native.cpu() is not None and _env.tune_malloc():
        return "thresholds raised by ddfast"
    given = [name for name in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_") if name in os.environ]
    return f"set by {', '.join(given)}" if given else "default"
