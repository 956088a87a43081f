"""A tiny task that students can learn in a second: classes are colours with noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddfast.data.arrays import ArraySource
from ddfast.store import DistilledSet

CLASSES, SIDE = 3, 16
NAMES = ("red", "green", "blue")
SETTINGS: dict[str, Any] = {
    "preset": "smoke", "seeds": 2, "epochs": 3, "width": 8, "curve_points": 2, "processes": 1, "device": "cpu",
    "quiet": True, "teacher": "none",
}  # fmt: skip


def pictures(each: int, seed: int, noise: float = 60.0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """uint8 [3 * each, 16, 16, 3] and labels, in label order."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), each)
    base = np.full((len(labels), SIDE, SIDE, 3), 90.0)
    base[np.arange(len(labels)), :, :, labels] += 60
    return (base + rng.normal(0, noise, base.shape)).clip(0, 255).astype(np.uint8), labels


def source(each: int, seed: int, name: str = "colours", names: tuple[str, ...] = NAMES) -> ArraySource:
    """Real pictures."""
    return ArraySource(*pictures(each, seed), names, name=name)


def small_set(ipc: int = 4, names: tuple[str, ...] = NAMES, **manifest: Any) -> DistilledSet:
    """A set of clean pictures."""
    images, labels = pictures(ipc, 7, noise=20.0)
    return DistilledSet(torch.from_numpy(images), torch.from_numpy(labels), names, dict(manifest))


def saved_set(path: Path, ipc: int = 4) -> Path:
    """The set on disk."""
    return small_set(ipc).save(path, lossless=True)


def settled(report: dict[str, Any]) -> dict[str, Any]:
    """A report without what a clock decides."""
    rows = [{**row, "cost": {**row["cost"], "seconds": None}} for row in report["results"]]
    points = [{**point, "seconds": None} for point in report["tradeoff"]]
    return {**report, "results": rows, "tradeoff": points}
