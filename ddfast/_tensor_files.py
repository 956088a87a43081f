"""Files of tensors that come from outside: torch's and safetensors'. A damaged or hostile one is a ValueError."""

from __future__ import annotations

import pickle
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._outside import check_file
from ddfast._torch_check import check_torch_file

# what zipfile, pickle, torch and safetensors make of damaged files
_DAMAGE = (
    pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError,
    AssertionError, ImportError, struct.error, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_torch(path: str | Path, *, allowed: Sequence[Any] = (), map_location: torch.device | str = "cpu") -> Any:
    """What ``torch.save`` wrote to a file: with ``weights_only=True``, so no code in it is run, and lengths are checked
    first (`ddfast._torch_check`).

    Args:
        path: the file.
        allowed: classes and functions allowed beside torch's own, as ``torch.serialization.safe_globals`` takes them.
        map_location: where tensors go.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
        ValueError: it is damaged, or holds something else than plain tensors and values.
    """
    file = Path(path)
    check_file(file)
    try:
        check_torch_file(file)
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(file, map_location=map_location, weights_only=True, mmap=False)
    except OSError:
        raise
    except _DAMAGE as error:
        raise ValueError(_reason(error)) from error


def read_safetensors(path: str | Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file, on the CPU.

    Raises:
        FileNotFoundError, OSError: it cannot be read.
        ValueError: it is damaged.
    """
    from safetensors import SafetensorError, safe_open

    check_file(path)
    with open(path, "rb"):  # safetensors reports a missing permission as damage
        pass
    try:
        with safe_open(str(path), "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (is no mapping)
            return dict(content.metadata() or {}), tensors
    except OSError:
        raise
    except (SafetensorError, *_DAMAGE) as error:
        raise ValueError(_reason(error)) from error


def _reason(error: BaseException) -> str:
    return (str(error) or repr(error)).splitlines()[0][:300]
