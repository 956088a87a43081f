"""Loads the native modules and says why one is missing; never raises at import.

``ddfast._cpu`` holds the C++ kernels, ``ddfast._cuda`` the CUDA C++ ones.  Both know nothing of torch: they take
pointers, sizes, strides in elements, an element type and (CUDA) a stream, all as plain numbers.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import platform
import warnings
from types import ModuleType

from ddfast import _env

# csrc/common/dtype.h holds the same table.
DTYPE_CODES = {"float32": 0, "float64": 1, "bfloat16": 2, "float16": 3, "uint8": 4}


def _reason(name: str, error: ImportError) -> str:
    if importlib.util.find_spec(f"ddfast.{name}"):
        return f"cannot be loaded: {error}"
    here = (platform.machine(), platform.system())
    for_others = name == "_cpu" and here != ("x86_64", "Linux")
    return "not built" + (f" (it is for x86_64 Linux; this is {' '.join(here)})" if for_others else "")


@functools.cache
def _load(name: str) -> tuple[ModuleType | None, str]:
    if not _env.native():
        return None, "switched off by DDFAST_NATIVE=0"
    try:
        module = importlib.import_module(f"ddfast.{name}")
    except ImportError as error:
        reason = _reason(name, error)
        if name == "_cpu":
            warnings.warn(
                f"ddfast._cpu, the C++ kernels: {reason}. Ops on CPU tensors run on the plain-torch reference: slower, "
                "and the same but for rounding. DDFAST_NATIVE=0 accepts that silently.",
                RuntimeWarning,
                stacklevel=2,
            )
        return None, reason
    if name == "_cpu":
        if _env.tune_malloc():
            module.tune_malloc()
        if wanted := _env.isa():
            module.set_isa(wanted)
    return module, ""


def cpu() -> ModuleType | None:
    """The module with the C++ kernels, or None when it is missing (see :func:`why_missing`)."""
    return _load("_cpu")[0]


def cuda() -> ModuleType | None:
    """The module with the CUDA C++ kernels, or None when it is missing (see :func:`why_missing`)."""
    return _load("_cuda")[0]


def why_missing(name: str) -> str:
    """Reason why ``"_cpu"`` or ``"_cuda"`` is not there; empty when it is."""
    return _load(name)[1]
