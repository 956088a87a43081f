"""A small ConvNet trained on a source itself, for sets without published weights."""

from __future__ import annotations

from dataclasses import replace

import torch

from ddfast.data.sources import Source
from ddfast.data.squares import whole_images
from ddfast.nets.checkpoints import fingerprint
from ddfast.nets.observers import Observer, load_observer
from ddfast.runs import Progress
from ddfast.train.demo_recipe import OBSERVER, small_convnet
from ddfast.train.loop import TrainConfig, TrainProgress
from ddfast.train.supervised import fit

DEPTHS = {"conv3": 3, "conv4": 4, "conv5": 5, "conv6": 6}
IMAGES = 10_000


def train_small_observer(
    name: str,
    source: Source,
    *,
    size: int,
    seed: int = 0,
    recipe: TrainConfig = OBSERVER,
    device: str | torch.device = "cpu",
    progress: str = "auto",
) -> Observer:
    """Trains a narrow ConvNet for a few epochs on at most 10,000 pictures of ``source`` at ``size`` pixels.

    Meant for small pictures and tries; a good observer for photographs takes a full training elsewhere.  The same seed,
    machine and number of threads give the same weights.

    Args:
        name: conv3, conv4, conv5 or conv6.
        source: pictures to train on.
        size: side of the pictures and of the observer's input in pixels.
        seed: decides initial weights and order.
        recipe: how it is trained; its seed is replaced.
        device: where.
        progress: mode of `ddfast.runs.Progress`.

    Raises:
        ValueError: ``name`` is not conv3 ... conv6, or the pictures are too small for its depth.
    """
    if name not in DEPTHS:
        raise ValueError(f"observer: got 'train:{name}', expected one of {', '.join('train:' + n for n in DEPTHS)}")
    classes = len(source.class_names)
    net = small_convnet(classes, size, seed=seed, depth=DEPTHS[name])
    images, labels = whole_images(source, size, -(-IMAGES // classes))
    steps = recipe.epochs * -(-len(images) // recipe.batch_size)
    with Progress(steps, unit="steps", title=f"training {name} on {len(images)} pictures", mode=progress) as shown:

        def show(state: TrainProgress) -> None:
            shown.update((state.epoch - 1) * state.steps + state.step - shown.done, f"loss {state.loss:.3f}")

        fit(net.to(device), images, labels, replace(recipe, seed=seed), on_progress=show)
    observer = load_observer(net, num_classes=classes, input_size=size)
    origin = f"trained on {source.name} for {recipe.epochs} epochs, seed {seed}"
    return replace(observer, name=name, weights=f"{origin}, sha256 {fingerprint(observer.module)}")
