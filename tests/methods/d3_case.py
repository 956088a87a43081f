"""D3 on a tiny problem, alone or in a process that kills itself at a chosen point."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import ddfast
from ddfast.data.arrays import ArraySource
from ddfast.methods import distill_to
from ddfast.methods.d3 import merge
from ddfast.runs import task
from ddfast.train.latent.matcher import D3Matcher

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")
TINY: dict[str, Any] = {
    "blocks": 2, "lpc": 2, "kernels": 8, "z": 4, "size": 16, "depth": 2, "width": 8, "scale": 2.0, "iterations": 4,
    "syn_steps": 2, "expert_epochs": 1, "max_start_epoch": 1, "experts": 1, "expert_train_epochs": 2,
    "expert_batch": 16, "expert_lr": 0.05, "lr_latent": 0.1, "lr_decoder": 1e-3, "lr_teacher": 0.02, "dsa": "",
    "mmd_samples": 4, "bandwidths": "median", "label_epoch": 2, "eval_every": 2, "eval_epochs": 2, "holdout": 0.2,
}  # fmt: skip


def source(each: int = 12, seed: int = 0, classes: int = 6) -> ArraySource:
    """Classes of 16 x 16 pictures: a colour for every two, bright in the upper or the lower half."""
    return ArraySource(*arrays(each, seed, classes), NAMES[:classes], name="stripes")


def arrays(each: int = 12, seed: int = 0, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(classes * each) % classes
    images = rng.normal(90, 30, (classes * each, 16, 16, 3))
    for number, label in enumerate(labels):
        half = slice(0, 8) if label % 2 else slice(8, 16)
        images[number, half, :, label // 2 % 3] += 110
    return images.clip(0, 255).astype(np.uint8), labels


def d3(out: Path, *, given: ArraySource | None = None, **changes: Any) -> None:
    distill_to("d3", given or source(), out, **{**TINY, "quiet": True, "device": "cpu", **changes})


def made(out: Path, **changes: Any) -> ddfast.DistilledSet:
    d3(out, **changes)
    return ddfast.load(out)


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run but those that say how long it took."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if "timings.json" not in name}


def killed(out: str, point: str) -> None:
    """Goes on with the run until ``point``, and dies there as by the system's hand."""
    place, name, when = POINTS[point]
    plain: Callable[..., Any] = getattr(place, name)

    def dying(*args: Any, **named: Any) -> Any:
        if when(*args):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(*args, **named)

    setattr(place, name, dying)
    d3(Path(out), resume=True)


POINTS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "third iteration of block 0": (D3Matcher, "advance", lambda matcher: matcher.iteration == 3),
    "block 1 between file and record": (task, "publish", lambda pairs: "block-1.done" in str(pairs)),
    "pictures of the set": (merge, "atomic_write_bytes", lambda path, *_: path.name == "samples.png"),
    "whole set before its record": (task, "publish", lambda pairs: "merge.done" in str(pairs)),
}
