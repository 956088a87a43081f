"""Supervised training of small nets on a set that stays on the device as uint8, and top-1 evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ddfast._types import IMAGENET, Normalization
from ddfast.store import set_fingerprint
from ddfast.train import augment, loop
from ddfast.train.loop import Batch, LoopOptions, Objective, OnProgress, TrainConfig, TrainReport
from ddfast.train.views import ViewConfig, draw_views


def fit(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig | None = None,
    *,
    normalization: Normalization = IMAGENET,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
) -> TrainReport:
    """Train ``model`` in place by cross-entropy.

    Args:
        model: maps normalised float32 [n, 3, H, W] to logits [n, C]; its device is used. It should have been built
            under a fixed seed: initial weights are the caller's.
        images: uint8 [N, H, W, 3], moved to the model's device once.
        labels: int64 [N] in [0, C).
        config: epochs, optimiser, schedule, shift (pixels, zeros move in) and left-right flip.
        normalization: of the [0, 1] pixels.
        on_progress: called with a ``TrainProgress`` after each step (every 32 on a GPU).
        options: checkpoint, compilation, tests on the way.

    Returns:
        Mean loss of each epoch and the rate. The same seed, thread count and machine give the same weights.

    Raises:
        TypeError, ValueError: images or labels of the wrong type, shape or length.
        NonFiniteLossError: the loss became NaN or infinite.
    """
    config = config or TrainConfig()
    images, labels = check_set(model, images, labels)
    channels_last = to_best_format(model)
    images = images.contiguous()
    size = (images.shape[1], images.shape[2])
    view = ViewConfig(size, flip=config.flip, shift=config.shift)

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        views = draw_views(view, size, config.seed, batch.epoch, batch.step, batch.index)
        x = augment.render(images, views, view, normalization)
        return x if channels_last else x.contiguous(), labels[batch.index.to(labels.device, non_blocking=True)]

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(x).float(), y)

    options = options or LoopOptions()
    if options.checkpoint:
        options = replace(options, identity={"set": set_fingerprint(images, labels), **options.identity})
    return loop.run(model, len(images), config, Objective(prepare, loss), on_progress, options)


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, *, normalization: Normalization = IMAGENET, batch_size: int = 500
) -> Tensor:
    """Logits float32 [N, C] on the CPU of uint8 images [N, H, W, 3]; the model's mode is restored."""
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    out = [model(augment.normalize(part.to(device), normalization)).float().cpu() for part in images.split(batch_size)]
    model.train(training)
    return torch.cat(out)


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    normalization: Normalization = IMAGENET,
    batch_size: int = 500,
) -> float:
    """Top-1 accuracy in [0, 1] of ``model`` on uint8 images [N, H, W, 3] with labels int64 [N]."""
    images, labels = check_set(model, images, labels)
    logits = predict(model, images, normalization=normalization, batch_size=batch_size)
    return float((logits.argmax(1) == labels.cpu()).double().mean())


def streamed_accuracy(
    batches: Iterable[tuple[Tensor, Tensor]], *, normalization: Normalization = IMAGENET
) -> Callable[[nn.Module], float]:
    """A test for ``LoopOptions.validate`` that holds one batch at a time.

    Args:
        batches: gives a new pass over (uint8 [n, H, W, 3], int64 [n]) each time it is iterated, such as a
            ``DataLoader``; its workers decode while the model runs. A generator would be empty at the second test.
        normalization: of the model's input.

    Returns:
        A function of a model in eval mode: top-1 accuracy in [0, 1]. It waits for the device once, at the end.

    Raises:
        TypeError: ``batches`` can be iterated only once.
        ValueError: (when called) no pictures.
    """
    if iter(batches) is batches:
        raise TypeError("batches: got an iterator, which has one pass only; expected a list or a DataLoader")

    @torch.no_grad()
    def test(model: nn.Module) -> float:
        device = next(model.parameters()).device
        right, count = torch.zeros((), dtype=torch.int64, device=device), 0
        for images, labels in batches:
            logits = model(augment.normalize(images.to(device, non_blocking=True), normalization))
            right += (logits.argmax(1) == labels.to(device, non_blocking=True)).sum()
            count += len(labels)
        if count == 0:
            raise ValueError("batches: got no pictures to test on")
        return int(right) / count

    return test


def check_set(model: nn.Module, images: Tensor, labels: Tensor, *, ready: bool = False) -> tuple[Tensor, Tensor]:
    """The set on the model's device, after checking types and shapes; ``ready`` also takes model input as it is."""
    if ready and images.is_floating_point():
        if images.ndim != 4 or images.shape[1] != 3:
            raise TypeError(f"images: got {images.dtype} {list(images.shape)}, expected float [N, 3, H, W] or uint8")
    elif images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise TypeError(f"images: got {images.dtype} {list(images.shape)}, expected uint8 [N, H, W, 3]")
    if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
        raise TypeError(f"labels: got {labels.dtype} {list(labels.shape)}, expected int64 [{len(images)}]")
    if len(images) == 0:
        raise ValueError("images: got an empty set, expected at least one image")
    device = next(model.parameters()).device
    return images.to(device), labels.to(device)


def to_best_format(model: nn.Module) -> bool:
    """Put the weights into the faster memory format; True for channels-last.

    On a CPU instance and group norm are slow in channels-last order (a ConvNet-3 step takes 1.2 times as long).
    """
    device = next(model.parameters()).device
    slow = device.type == "cpu" and any(isinstance(layer, nn.GroupNorm) for layer in model.modules())
    layout = torch.contiguous_format if slow else torch.channels_last
    model.to(memory_format=layout)  # type: ignore[call-overload]
    return not slow
