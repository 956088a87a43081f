"""Every environment variable ddfast reads at run time, in one place.

===================== =========================================================================================
``DDFAST_BACKEND``    op backend for the whole process: ``reference``, ``cpp``, ``triton`` or ``cuda`` (default: best)
``DDFAST_MALLOC``     ``0`` leaves glibc's malloc thresholds alone (default: raised when the native module loads)
``DDFAST_ISA``        ``v3`` or ``v4``: instruction set of the native kernels (default: the best the processor has)
``DDFAST_NATIVE``     ``0`` ignores the native modules, as if they had not been built
===================== =========================================================================================
"""

from __future__ import annotations

import os


def backend() -> str | None:
    value = os.environ.get("DDFAST_BACKEND", "").strip()
    if value and value not in {"reference", "cpp", "triton", "cuda"}:
        raise ValueError(f"DDFAST_BACKEND={value!r}: expected reference, cpp, triton or cuda")
    return value or None


def tune_malloc() -> bool:
    return os.environ.get("DDFAST_MALLOC", "1") != "0"


def isa() -> str | None:
    return os.environ.get("DDFAST_ISA") or None


def native() -> bool:
    return os.environ.get("DDFAST_NATIVE", "1") != "0"
