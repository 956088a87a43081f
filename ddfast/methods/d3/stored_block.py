"""A finished block as one file, which may have been made on another machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from ddfast._outside import parse_json
from ddfast._tensor_files import read_safetensors
from ddfast.methods._driver import loss_curve
from ddfast.methods.d3.block import DistilledBlock
from ddfast.methods.d3.config import D3Config
from ddfast.runs import RunError
from ddfast.runs.config import differences
from ddfast.store import DistilledSet
from ddfast.train.latent.distribution import Distribution, LatentBlock

BLOCK_FILE = "block.safetensors"
FORMAT = "ddfast.d3.block/1"


@dataclass(frozen=True)
class StoredBlock:
    """``latents`` with classes of the whole set; ``record``: ``lr``, ``losses``, ``tests`` and ``notes``."""

    latents: LatentBlock
    record: dict[str, Any]


def block_bytes(made: DistilledBlock, number: int, classes: Sequence[int], settings: Mapping[str, Any]) -> bytes:
    """The file of a block; the same block gives the same bytes.

    Args:
        made: the block.
        number: which.
        classes: of the whole set.
        settings: what decides the run's result, as JSON values.

    Raises:
        ValueError: a number is not finite.
    """
    distribution = Distribution([made.latents])
    record = {"lr": made.lr, "losses": loss_curve(made.losses), "tests": made.tests, "notes": made.notes}
    about = {
        "format": FORMAT, "block": number, "classes": list(classes), "settings": dict(settings),
        "distribution": distribution.as_json(), "record": record,
    }  # fmt: skip
    tensors = {**distribution.tensors(), "labels": made.latents.labels.cpu().contiguous()}
    return save(tensors, {"ddfast": json.dumps(about, sort_keys=True, allow_nan=False)})


def read_block(
    path: Path, number: int, classes: Sequence[int], settings: Mapping[str, Any], class_names: Sequence[str],
    config: D3Config,
) -> StoredBlock:  # fmt: skip
    """A block of this run, checked.

    Args:
        path: of its file.
        number, classes: which block is expected, and its classes.
        settings: of the run.
        class_names: of the whole set.
        config: of the run.

    Raises:
        RunError: the file is damaged, of another block or of a run with other settings.
        ValueError: its numbers are not finite, or its decoder makes pictures of another size.
    """
    about, tensors = _read(path)
    if about.get("block") != number or about.get("classes") != list(classes):
        raise RunError(
            f"{path}: holds block {about.get('block')} of classes {_short(about.get('classes'))}, expected block "
            f"{number} of {_short(list(classes))}; put each block's file where it belongs"
        )
    if lines := differences(about["settings"], settings):
        raise RunError(
            f"{path}: is a block of a run with other settings:\n  "
            + "\n  ".join(lines)
            + "\nDistil it again with these, or remove it."
        )
    labels = tensors.pop("labels")
    side = config.size
    blank = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(len(labels), side, side, 3)
    try:
        manifest = {"distribution": about["distribution"]}
        made = DistilledSet(blank, labels, tuple(class_names), manifest, tensors)
        distribution = Distribution.of(made)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    assert distribution is not None
    return StoredBlock(distribution.blocks[0], about["record"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    try:
        metadata, tensors = read_safetensors(path)
        about = parse_json(metadata.get("ddfast", "{}"))
        if about.get("format") != FORMAT:
            raise RunError(f"{path}: is no block of a D3 run")
        return about, tensors
    except (OSError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: is damaged ({error}); fetch it again, or remove it to distil it anew") from error


def _short(classes: Any) -> str:
    shown = [str(label) for label in classes or []]
    return ", ".join(shown[:8]) + (" ..." if len(shown) > 8 else "")
