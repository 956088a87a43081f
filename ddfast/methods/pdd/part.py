"""What a finished stage leaves for the stages after it and for the distilled set."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from safetensors.torch import load_file
from torch import Tensor

_EXTRA = "extra."


@dataclass
class Part:
    """A stage's own images and what students are trained on after it.

    ``stored`` and ``labels`` are `Matcher.stored`; ``images`` and ``targets`` all sets so far in the students' space;
    ``lr`` the rate the stage learned, None where it learns none; ``extras`` and ``notes`` as the matcher gives them.
    """

    FILE: ClassVar[str] = "set.safetensors"

    stored: Tensor
    labels: Tensor
    images: Tensor
    targets: Tensor
    extras: dict[str, Tensor]
    lr: float | None
    notes: dict[str, Any]
    tests: list[dict[str, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    digest: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """For a safetensors file."""
        named = {name: getattr(self, name) for name in ("stored", "labels", "images", "targets")}
        named |= {_EXTRA + name: tensor for name, tensor in self.extras.items()}
        return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}

    @classmethod
    def read(cls, folder: Path, record: Mapping[str, Any]) -> Part:
        """From a stage's folder and the record of its task; on the CPU."""
        tensors = load_file(folder / cls.FILE)
        extras = {name[len(_EXTRA) :]: tensors.pop(name) for name in list(tensors) if name.startswith(_EXTRA)}
        digest = hashlib.sha256(tensors["stored"].numpy().tobytes()).hexdigest()
        found: dict[str, Any] = {**tensors, "extras": extras, "digest": digest}
        found |= {name: record[name] for name in ("lr", "notes", "tests", "losses")}
        return cls(**found)
