"""Pictures in the order in which a training forgets them: scores from a file, or counted here."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ddfast.data import Source, Stream
from ddfast.data.space import Space
from ddfast.methods._options import RunOptions
from ddfast.methods.coreset.config import CoresetConfig
from ddfast.methods.coreset.pictures import Squares, take
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs.atomic import remove_folder
from ddfast.runs.sharing import unless
from ddfast.store import set_fingerprint
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.forgetting import FORGETTING_FILE, ForgettingScores

FOLDER = "forgetting"


@dataclass(frozen=True)
class Forgotten:
    """For each class: positions of its readable pictures, their scores, and (sample, reason) of the unreadable."""

    positions: list[NDArray[np.int64]]
    scores: list[NDArray[np.float64]]
    failures: list[list[tuple[str, str]]]

    def order(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Most forgotten first, of equals the first."""
        rank = np.argsort(-self.scores[label], kind="stable")
        return self.positions[label][rank], self.scores[label][rank]


def scores_sha256(config: CoresetConfig) -> str | None:
    """Of the file of scores that is named, or None.

    Raises:
        FileNotFoundError: there is none.
    """
    if config.scores is None:
        return None
    return hashlib.sha256(_file(Path(config.scores)).read_bytes()).hexdigest()


def find_forgotten(source: Source, stream: Stream, config: CoresetConfig, options: RunOptions, out: Path) -> Forgotten:
    """Scores of all pictures at ``config.size``: those of ``config.scores``, or of networks trained here.

    All pictures are in memory at that size meanwhile.

    Raises:
        ddfast.runs.RunError: the scores are of other pictures (or another size), or damaged.
    """
    classes = [
        take(source, stream, label, np.arange(source.count(label)), source.count(label), config.size)
        for label in range(len(source.class_names))
    ]
    images = torch.stack([image for one in classes for image in one.images])
    labels = torch.tensor([label for label, one in enumerate(classes) for _ in one.images])
    digest = set_fingerprint(images, labels)
    if config.scores is not None:
        return _by_class(classes, ForgettingScores.load(config.scores, digest).mean)
    kept = out / FORGETTING_FILE
    if not kept.exists():
        with unless(kept.exists):  # another worker may finish the run meanwhile, and move the scores
            _count(source, images, labels, digest, config, options, out)
            return _by_class(classes, ForgettingScores.load(out / FOLDER, digest).mean)
    return _by_class(classes, ForgettingScores.load(kept, digest).mean)


def keep_scores(out: Path) -> None:
    """Of what was trained for the scores, keeps the scores; doing it again changes nothing."""
    with suppress(FileNotFoundError):  # another worker has
        os.replace(out / FOLDER / FORGETTING_FILE, out / FORGETTING_FILE)
    remove_folder(out / FOLDER)


def _count(
    source: Source, images: Tensor, labels: Tensor, digest: str, config: CoresetConfig, options: RunOptions, out: Path
) -> None:
    depth = max(1, min(5, config.size.bit_length() - 3))  # 3 for 32 pixels, 4 for 64, 5 from 128 on
    net = FlatConvNet(len(source.class_names), config.size, depth=depth, width=config.forgetting_width)
    recipe = ExpertConfig(config.forgetting_networks, config.forgetting_epochs, dsa=config.dsa, seed=config.seed)
    space = Space.of(source.name, images, zca=False, class_names=source.class_names)
    train_experts(
        net, space.apply(images), labels, recipe, out / FOLDER, pictures=digest, device=options.torch_device(),
        forgetting=True, quiet=options.quiet, worker=options.worker(),
        wanted=lambda: not (out / FORGETTING_FILE).exists(),
    )  # fmt: skip


def _by_class(classes: list[Squares], scores: Tensor) -> Forgotten:
    ends = np.cumsum([len(one.images) for one in classes])[:-1]
    parts: list[Any] = np.split(scores.double().numpy(), ends)
    return Forgotten([np.array(one.positions) for one in classes], parts, [one.failures for one in classes])


def _file(path: Path) -> Path:
    path = path / FORGETTING_FILE if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"scores: no file {path}; expected forgetting scores, or a folder of experts with them")
    return path
