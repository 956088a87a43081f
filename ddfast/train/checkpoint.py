"""Checkpoints of a training: model, optimiser, average and history in one file that is complete or not there."""

from __future__ import annotations

import hashlib
import io
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast._tensor_files import read_torch
from ddfast.runs import RunError, atomic_write_bytes
from ddfast.train.config import Tested, TrainConfig
from ddfast.train.optimizers import MovingAverage

FORMAT = "ddfast.train/1"


@dataclass
class State:
    """Where a training stands: finished epochs, their mean losses (lists of several models), tests, seconds so far."""

    epoch: int = 0
    losses: list[Any] = field(default_factory=list)
    tested: list[Tested] = field(default_factory=list)
    seconds: float = 0.0


def identity(model: nn.Module, count: int, config: TrainConfig, extra: dict[str, Any]) -> dict[str, Any]:
    """What decides a training's result; a checkpoint is resumed only by a training with the same."""
    shapes = [(name, list(value.shape)) for name, value in model.state_dict().items()]
    network = hashlib.sha256(repr(shapes).encode()).hexdigest()
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(config).items()}
    return {"format": FORMAT, "network": network, "images": count, "config": settings, **extra}


def save(
    path: Path,
    who: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
    state: State,
) -> None:
    """Write atomically.

    Raises:
        RunError: the disk is full or the folder may not be written to.
    """
    content = {
        "identity": who,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict()["state"],
        "average": average.values if average else [],
        "state": asdict(state),
    }
    file = io.BytesIO()
    torch.save(content, file)
    atomic_write_bytes(path, file.getvalue())


def resume(
    path: Path,
    who: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage | None,
) -> State | None:
    """Fill model, optimiser and average from ``path``; None where there is no such file.

    Raises:
        RunError: the file is damaged or belongs to another training; the message says what differs.
    """
    if not path.exists():
        return None
    content = _read(path)
    _same(path, content["identity"], who)
    model.load_state_dict(content["model"])
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": content["optimizer"], "param_groups": groups})
    if average:
        average.restore(content["average"])
    state = content["state"]
    state["tested"] = [Tested(**each) for each in state["tested"]]
    return State(**state)


def load_weights(path: str | Path, model: nn.Module) -> int:
    """Load the weights of a checkpoint into ``model``, whatever the training; returns the number of finished epochs.

    Raises:
        RunError: no such file, or a damaged one.
        RuntimeError: another network.
    """
    content = _read(Path(path))
    model.load_state_dict(content["model"])
    return int(content["state"]["epoch"])


def finite(model: nn.Module) -> bool:
    """Whether no parameter is NaN or infinite."""
    sums: list[Tensor] = list(torch._foreach_norm([value.detach() for value in model.parameters()]))
    return bool(torch.isfinite(torch.stack([each.float() for each in sums])).all())


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = read_torch(path)
        return {key: content[key] for key in ("identity", "model", "optimizer", "average", "state")}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise RunError(f"{path}: cannot be read as a training checkpoint ({error}); remove it to start anew") from error


def _same(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    old, new = ({**who, **who.get("config", {}), "config": None} for who in (there, here))
    differing = [
        f"{key} {old.get(key)!r} there, {new.get(key)!r} here" for key in {**old, **new} if old.get(key) != new.get(key)
    ]
    if differing:
        raise RunError(
            f"{path}: belongs to another training: {'; '.join(differing)}. Remove it, or give another checkpoint file"
        )
