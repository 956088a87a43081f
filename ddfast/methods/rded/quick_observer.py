"""``observer="train:conv3"``: a small observer trained on the source itself, for sets without published weights."""

from __future__ import annotations

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
from ddfast.runs import Progress
from ddfast.train import TrainProgress, fit
from ddfast.train.demo_recipe import OBSERVER, small_convnet

_DEPTHS = {"conv3": 3, "conv4": 4, "conv5": 5, "conv6": 6}
_IMAGES = 10_000
_CHUNK = 64


def train_observer(name: str, source: Source, config: RDEDConfig, options: RunOptions) -> Observer:
    """Trains a narrow ConvNet for a few epochs on at most 10,000 pictures of ``source`` at ``config.size`` pixels.

    Meant for small pictures and tries; a good observer for photographs takes a full training elsewhere.  The same seed,
    machine and number of threads give the same weights.

    Raises:
        ValueError: ``name`` is not conv3 ... conv6, or the pictures are too small for its depth.
    """
    if name not in _DEPTHS:
        raise ValueError(f"observer: got 'train:{name}', expected one of {', '.join('train:' + n for n in _DEPTHS)}")
    classes = len(source.class_names)
    net = small_convnet(classes, config.size, seed=config.seed, depth=_DEPTHS[name])
    images, labels = whole_images(source, config.size, -(-_IMAGES // classes))
    mode = "quiet" if options.quiet else "auto"
    steps = OBSERVER.epochs * -(-len(images) // OBSERVER.batch_size)
    with Progress(steps, unit="steps", title=f"training {name} on {len(images)} pictures", mode=mode) as progress:

        def show(state: TrainProgress) -> None:
            progress.update((state.epoch - 1) * state.steps + state.step - progress.done, f"loss {state.loss:.3f}")

        fit(net.to(options.torch_device()), images, labels, replace(OBSERVER, seed=config.seed), on_progress=show)
    observer = load_observer(net, num_classes=classes, input_size=config.size)
    origin = f"trained on {source.name} for {OBSERVER.epochs} epochs, seed {config.seed}"
    return replace(observer, name=name, weights=f"{origin}, sha256 {fingerprint(observer.module)}")


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
