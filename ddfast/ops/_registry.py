"""Defines every op once on the dispatcher and chooses the backend that computes it.

An op has a schema, a plain-torch reference that works on every device, a fake implementation for tracing, and any
number of faster backends.  One dispatcher entry per op leads to :meth:`Op.__call__`, which picks the first backend that
is available for the device and accepts the arguments.  :func:`use_backend` and ``DDFAST_BACKEND`` force one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from ddfast import _env, _native

BACKENDS = ("reference", "cpp", "triton", "cuda")
_LIB = torch.library.Library("ddfast", "DEF")
OPS: dict[str, Op] = {}
_forced: dict[str, str] = {}  # op name, or "*" for all, -> backend; process-wide so that worker threads see it
_forced_by_env = _env.backend()


class BackendError(RuntimeError):
    """The backend asked for does not exist for this op, device or argument."""


@dataclass(frozen=True)
class Backend:
    """``run`` computes the op; ``missing`` returns why it cannot run on a device type ("" when it can);
    ``rejects`` returns why it does not take these arguments ("" when it does)."""

    name: str
    run: Callable[..., Any]
    missing: Callable[[str], str]
    rejects: Callable[..., str]


def _always(*_: Any) -> str:
    return ""


def native_missing(device: str) -> str:
    """Availability of the C++ backend."""
    return _native.why_missing("_cpu") if device == "cpu" else "needs CPU tensors"


def cuda_missing(device: str) -> str:
    """Availability of the CUDA C++ backend."""
    return _native.why_missing("_cuda") if device == "cuda" else "needs CUDA tensors"


def triton_missing(device: str) -> str:
    """Availability of the Triton backend: CUDA tensors, or CPU tensors under Triton's interpreter."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if device != "cuda" and not interpreted:
        return "needs CUDA tensors (or TRITON_INTERPRET=1)"
    try:
        import importlib.util

        return "" if importlib.util.find_spec("triton") else "triton is not installed"
    except ValueError as error:
        return f"triton is not importable: {error}"


_MISSING = {"reference": _always, "cpp": native_missing, "triton": triton_missing, "cuda": cuda_missing}


@dataclass
class Op:
    """One op: its name, schema, reference and further backends in order of preference per device."""

    name: str
    schema: str
    reference: Callable[..., Any]
    backends: dict[str, Backend] = field(default_factory=dict)
    order: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add_backend(self, name: str, run: Callable[..., Any], *, rejects: Callable[..., str] = _always) -> None:
        """Adds backend ``name`` (one of :data:`BACKENDS`) that takes the op's arguments in schema order."""
        if name not in BACKENDS:
            raise ValueError(f"name: got {name!r}, expected one of {', '.join(BACKENDS)}")
        self.backends[name] = Backend(name, run, _MISSING[name], rejects)

    def available(self, device: str) -> list[str]:
        """Backends that can run on ``device`` ("cpu" or "cuda"), best first."""
        order = self.order.get(device, ("cpp", "cuda", "triton", "reference"))
        names = [n for n in order if n in self.backends and not self.backends[n].missing(device)]
        if device == "cpu" and "triton" in names:  # the interpreter is for tests, never a default
            names.remove("triton")
            names.append("triton")
        return names

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        forced = forced_backend(self.name)
        if forced and forced in self.backends:
            return self._run_forced(forced, device, args, kwargs)
        for name in self.available(device):
            if not self.backends[name].rejects(*args, **kwargs):
                return self.backends[name].run(*args, **kwargs)
        return self.reference(*args, **kwargs)

    def _run_forced(self, name: str, device: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        backend = self.backends[name]
        reason = backend.missing(device) or backend.rejects(*args, **kwargs)
        if reason:
            raise BackendError(f"{self.name}: backend {name!r} was asked for but {reason}")
        return backend.run(*args, **kwargs)


def define(schema: str, reference: Callable[..., Any], *, fake: Callable[..., Any], tags: Any = ()) -> Op:
    """Defines op ``ddfast::<name>`` from a schema such as ``"crop_score(Tensor logits, ...) -> Tensor"``."""
    name = schema.split("(", 1)[0]
    op = Op(name, schema, reference)
    op.add_backend("reference", reference)
    _LIB.define(schema, tags=tags)
    _LIB.impl(name, op, "CompositeExplicitAutograd")
    torch.library.register_fake(f"ddfast::{name}", fake, lib=_LIB)
    OPS[name] = op
    return op


@contextlib.contextmanager
def use_backend(name: str, ops: Iterable[str] | None = None) -> Iterator[None]:
    """Forces a backend inside the ``with`` block, for all threads of the process.

    Args:
        name: ``reference``, ``cpp``, ``triton`` or ``cuda``.
        ops: names of the ops to force; all that have this backend when None.

    Raises:
        ValueError: unknown backend or op.
        BackendError: when an op named in ``ops`` does not have this backend; on a call, when it cannot run there.
    """
    if name not in BACKENDS:
        raise ValueError(f"name: got {name!r}, expected one of {', '.join(BACKENDS)}")
    chosen = ["*"] if ops is None else list(ops)
    for op in chosen:
        if op == "*":
            continue
        if op not in OPS:
            raise ValueError(f"ops: got {op!r}, expected some of {', '.join(sorted(OPS))}")
        if name not in OPS[op].backends:
            raise BackendError(f"{op} has no {name!r} backend; it has {', '.join(OPS[op].backends)}")
    before = dict(_forced)
    _forced.update(dict.fromkeys(chosen, name))
    try:
        yield
    finally:
        _forced.clear()
        _forced.update(before)


def forced_backend(op: str) -> str | None:
    """The backend that `use_backend` or ``DDFAST_BACKEND`` asks for ``op``, None where the choice is free."""
    return _forced.get(op) or _forced.get("*") or _forced_by_env


def available_backends(op: str, device: str = "cpu") -> list[str]:
    """Backends of ``op`` that can run on ``device`` ("cpu" or "cuda"), the default first."""
    if op not in OPS:
        raise ValueError(f"op: got {op!r}, expected one of {', '.join(sorted(OPS))}")
    return OPS[op].available(device)
