"""Reads observer weights from files, safely, and puts them into a network with errors that say what to do."""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast._tensor_files import read_safetensors, read_torch

StateDict = dict[str, Tensor]
_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")


class WeightsUnavailableError(FileNotFoundError):
    """Pretrained weights are neither on this machine nor within reach; the message names the file to bring."""


def _unwrap(loaded: Any, path: Path) -> StateDict:
    """The state dict inside a checkpoint: itself, or below ``model``, ``state_dict``, ``model_state_dict``, ``net``."""
    for _ in range(3):
        if isinstance(loaded, dict) and loaded and all(isinstance(v, Tensor) for v in loaded.values()):
            prefix = "module."
            wrapped = all(str(k).startswith(prefix) for k in loaded)
            return {str(k).removeprefix(prefix) if wrapped else str(k): v for k, v in loaded.items()}
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded, dict) and k in loaded), None)
        if inner is None:
            break
        loaded = inner
    held = ", ".join(map(str, list(loaded)[:8])) if isinstance(loaded, dict) else type(loaded).__name__
    raise ValueError(
        f"weights: {path} holds no state dict (found: {held}); expected tensors by parameter name, or a dict with one "
        f"under {', '.join(_WRAPPERS)}"
    )


def read_state_dict(path: str | Path) -> StateDict:
    """State dict of a ``.safetensors`` or torch checkpoint on the CPU; ``module.`` prefixes are stripped.

    Torch files are read with ``weights_only=True``: no code in them is run. The ``argparse.Namespace`` that
    torchvision's training script stores beside the weights is allowed. Raises FileNotFoundError or ValueError.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {path}")
    if path.suffix == ".safetensors":
        try:
            return _unwrap(read_safetensors(path)[1], path)
        except ValueError as error:
            raise ValueError(f"weights: {path} is damaged ({error}); fetch or make it again") from error
    try:
        loaded = read_torch(path, allowed=[argparse.Namespace])
    except ValueError as error:
        raise ValueError(
            f"weights: {path} cannot be read as plain tensors ({error}); re-save it as "
            "torch.save(model.state_dict(), path) or as .safetensors"
        ) from error
    return _unwrap(loaded, path)


def head_of(state: StateDict) -> tuple[str, int, int] | None:
    """Name, outputs and inputs of the last weight matrix (linear or 1x1 convolution) of a state dict."""
    for name in reversed(list(state)):
        weight = state[name]
        if name.endswith("weight") and (weight.dim() == 2 or (weight.dim() == 4 and weight.shape[2:] == (1, 1))):
            return name, int(weight.shape[0]), int(weight.shape[1])
    return None


def load_into(module: nn.Module, state: StateDict, name: str, origin: str) -> None:
    """Strictly loads ``state``; ValueError names missing, unexpected and misshaped parameters and the likely reason."""
    own = module.state_dict()
    optional = {k for k in own if k.endswith("num_batches_tracked")}
    missing = [k for k in own if k not in state and k not in optional]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            f"{label}: {', '.join(items[:4])}{f' and {len(items) - 4} more' if len(items) > 4 else ''}"
            for label, items in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
            if items
        ]
        head = head_of(state)
        tip = "; the head fits num_classes=" + str(head[1]) if head and not missing and not unexpected else ""
        raise ValueError(f"weights: {origin} does not fit {name}: {'; '.join(parts)}{tip}")
    module.load_state_dict({**{k: own[k] for k in optional}, **state})


def state_bytes(module: nn.Module) -> bytes:
    """All parameters and buffers as the contents of a ``.safetensors`` file."""
    from safetensors.torch import save

    return save({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of all parameters and buffers, in name order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        flat = tensor.detach().cpu().contiguous()
        digest.update(f"{name}|{tuple(flat.shape)}|{flat.dtype}|".encode())
        digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
