"""What the pack finds on the machine: GPU, compilers, packages; each missing thing with its reason."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Found:
    """Reasons why something cannot be used, "" when it can; ``capability`` like ``90``, "" without a GPU."""

    capability: str
    no_gpu: str
    no_sanitizer: str
    no_dali: str
    no_nvcc: str
    built: bool


def look() -> Found:
    """Looks at this machine; imports torch."""
    import torch

    cuda = torch.cuda.is_available()
    capability = "".join(str(part) for part in torch.cuda.get_device_capability()) if cuda else ""
    return Found(
        capability,
        "" if cuda else "no CUDA device",
        _no_tool("compute-sanitizer") or ("" if cuda else "no CUDA device"),
        _no_dali(),
        _no_tool("nvcc"),
        _built(),
    )


def _built() -> bool:
    return all(importlib.util.find_spec(f"ddfast.{name}") for name in ("_cpu", "_cuda"))


def _no_dali() -> str:
    there = importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali")
    return "" if there else "DALI is not installed"


def _no_tool(name: str) -> str:
    return "" if shutil.which(name) else f"{name} is not on PATH"


def missing_packages() -> list[str]:
    """Packages the steps cannot do without that are not installed."""
    needed = ("torch", "torchvision", "triton", "numpy", "PIL", "simplejpeg", "safetensors", "tqdm", "pytest",
              "pytest_benchmark", "pybind11", "setuptools", "hypothesis")  # fmt: skip
    return [name for name in needed if importlib.util.find_spec(name) is None]


def install_wheels(wheels: Path, python: str, target: Path) -> None:
    """Unpacks wheels that were brought along into ``target``, without asking any index.

    Raises:
        ValueError: no wheels in the folder, or pip refused them.
    """
    files = sorted(str(path) for path in wheels.glob("*.whl"))
    if not files:
        raise ValueError(f"wheels: {wheels} holds no .whl files")
    command = [python, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--upgrade", "--target", str(target)]
    done = subprocess.run([*command, *files], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"wheels: pip could not install {wheels}: {done.stderr.strip()[-400:]}")
