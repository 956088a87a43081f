"""``observer="train:conv3"``: a small observer trained on the source itself, for sets without published weights."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ddfast import ops
from ddfast.data import DecodeError, Source, open_stream
from ddfast.methods._options import RunOptions
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets.checkpoints import fingerprint
from ddfast.nets.observers import Observer, load_observer
from ddfast.train import TrainConfig, fit

_IMAGES = 10_000
_EPOCHS = 4
_CHUNK = 64


def train_observer(name: str, source: Source, config: RDEDConfig, options: RunOptions) -> Observer:
    """Trains model ``name`` for a few epochs on at most 10,000 pictures of ``source`` at ``config.size`` pixels.

    Meant for small pictures and tries; a good observer for photographs takes a full training elsewhere.  The same seed,
    machine and number of threads give the same weights.
    """
    observer = fresh_observer(name, len(source.class_names), config.size, config.seed)
    images, labels = whole_images(source, config.size, -(-_IMAGES // len(source.class_names)))
    if not options.quiet:
        print(f"training {name} on {len(images)} pictures of {source.name}", file=sys.stderr)
    device = options.torch_device()
    fit(
        observer.module.to(device), images, labels,
        TrainConfig(epochs=_EPOCHS, seed=config.seed, shift=config.size // 16), normalization=observer.normalization,
    )  # fmt: skip
    observer.module.eval()
    origin = f"trained on {source.name} for {_EPOCHS} epochs, seed {config.seed}, sha256 {fingerprint(observer.module)}"
    return replace(observer, weights=origin, random_weights=False)


def fresh_observer(name: str, num_classes: int, size: int, seed: int) -> Observer:
    """Model ``name`` with random weights of this seed, ready to be trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        observer = load_observer(name, num_classes=num_classes, input_size=size, random_weights=True)
    observer.module.requires_grad_(True)
    return observer


def whole_images(source: Source, size: int, per_class: int) -> tuple[Tensor, Tensor]:
    """Centre squares of the first ``per_class`` pictures of each class: uint8 [N, size, size, 3], labels int64 [N]."""
    stream = open_stream("threads", workers=0)
    images, labels = [], []
    for label in range(len(source.class_names)):
        positions = np.arange(min(per_class, source.count(label)))
        for start in range(0, len(positions), _CHUNK):
            part = _squares(source, stream, label, positions[start : start + _CHUNK], size)
            images.append(part)
            labels += [label] * len(part)
    stream.close()
    return torch.cat(images), torch.tensor(labels)


def _squares(source: Source, stream: object, label: int, positions: np.ndarray, size: int) -> Tensor:
    try:
        pictures = stream.decode(source, label, positions)  # type: ignore[attr-defined]
    except DecodeError:
        if len(positions) == 1:
            return torch.empty(0, size, size, 3, dtype=torch.uint8)
        return torch.cat([_squares(source, stream, label, positions[i : i + 1], size) for i in range(len(positions))])
    sizes = pictures.sizes
    side = sizes.min(dim=1, keepdim=True).values
    boxes = torch.cat([(sizes - side) // 2, side, side], dim=1).to(torch.int32)
    squares: Tensor = ops.mosaic(
        pictures.pixels,
        pictures.offsets,
        sizes,
        boxes,
        torch.arange(len(boxes), dtype=torch.int32),
        size=size,
        factor=1,
    )
    return squares
