"""What is installed and what would run: the content of ``ddfast info`` and of ``ddfast.build_info()``."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from ddfast import _env, _machine, _native

_PACKAGES = (
    "torch", "torchvision", "triton", "numpy", "pillow", "simplejpeg", "safetensors", "timm", "openvino",
    "nvidia-dali-cuda130", "nvidia-dali-cuda120",
)  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def own_version() -> str:
    """ddfast's version as installed, +cu130 and the like with it; of a source tree what its package says."""
    from ddfast import __version__

    return _version("ddfast") or __version__


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as f:
            for line in f:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _gpus() -> list[dict[str, Any]]:
    import torch

    if not torch.cuda.is_available():
        return []
    gpus = []
    for i in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(i)
        gpus.append(
            {"name": p.name, "compute_capability": f"{p.major}.{p.minor}", "memory_gib": p.total_memory / 2**30}
        )
    return gpus


def build_info() -> dict[str, Any]:
    """Versions, native modules (or why one is missing), processor, GPUs and the backends of each op.

    Returns:
        A dictionary that can be written as JSON; keys ``ddfast``, ``python``, ``packages``, ``native``, ``machine``,
        ``gpus`` and ``ops`` (op -> device -> backends, the default first).
    """
    from ddfast import ops
    from ddfast.ops._registry import OPS

    native: dict[str, Any] = {}
    for name, module in (("_cpu", _native.cpu()), ("_cuda", _native.cuda())):
        native[name] = module.build_info() if module else {"missing": _native.why_missing(name)}
    if (cpu := _native.cpu()) is not None:
        native["_cpu"]["isa"] = cpu.isa()
    return {
        "ddfast": own_version(),
        "python": platform.python_version(),
        "packages": {p: v for p in _PACKAGES if (v := _version(p))},
        "native": native,
        "malloc_tuned": _native.cpu() is not None and _env.tune_malloc(),
        "machine": {"system": platform.platform(), "processor": _processor(), "cores": _machine.cores()},
        "gpus": _gpus(),
        "ops": {n: {d: ops.available_backends(n, d) for d in ("cpu", "cuda")} for n in sorted(OPS)},
    }


def describe(info: dict[str, Any]) -> str:
    """:func:`build_info` for people."""
    machine = info["machine"]
    lines = [
        f"ddfast {info['ddfast']}, Python {info['python']}",
        f"machine: {machine['processor']}, {machine['cores']} cores, {machine['system']}",
        "GPUs: " + (", ".join(f"{g['name']} ({g['memory_gib']:.0f} GiB)" for g in info["gpus"]) or "none"),
        "packages: " + ", ".join(f"{name} {version}" for name, version in info["packages"].items()),
    ]
    for name, native in info["native"].items():
        lines.append(f"ddfast.{name}: " + ", ".join(f"{key} {value}" for key, value in native.items()))
    lines.append("ops, backends in order of preference:")
    for name, devices in info["ops"].items():
        if name.endswith(("_out", "_backward", "_double_backward")):
            continue  # parts of the op of the same stem
        lines.append(f"  {name:16s} " + "; ".join(f"{device}: {', '.join(names)}" for device, names in devices.items()))
    return "\n".join(lines)
