"""Stored soft labels with their images as torch data sets: plain ``DataLoader``, no patched fetcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ddfast._types import IMAGENET, Normalization
from ddfast.store import DistilledSet, LabelStore, TopKLabels, set_fingerprint
from ddfast.train.augment import render
from ddfast.train.replay import Replay


class SoftLabelDataset(Dataset[tuple[Tensor, Tensor | TopKLabels]]):
    """The batches of one epoch after the other: item b is batch b, its views made again and their stored labels.

    ::

        data = SoftLabelDataset(ddfast.load(folder), LabelStore.open(labels))
        loader = DataLoader(data, batch_size=None, num_workers=2)
        for epoch in range(data.epochs):
            data.set_epoch(epoch)
            for images, logits in loader:
                loss = F.kl_div(F.log_softmax(net(images) / T, 1), F.softmax(logits / T, 1), reduction="batchmean")

    An item is a whole batch, because CutMix and mixup partners come from it; hence ``batch_size=None``.  Order, views
    and batch size are those that the labels were made for and stand in the store.

    Args:
        distilled: the set that the labels belong to.
        labels: its label store.
        normalization: of the images; None for the set's own (ImageNet's where it names none).
        dense: logits float32 [n, C]; False gives labels as stored, for `ddfast.ops.soft_label_loss`.
        dtype: of the images.

    Raises:
        LabelMismatchError: labels of another set.
        ValueError: labels of plain images (use `ImageLabelDataset`), or for another number of classes.
    """

    def __init__(
        self,
        distilled: DistilledSet,
        labels: LabelStore,
        *,
        normalization: Normalization | None = None,
        dense: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        _check(distilled, labels)
        self.replay = Replay.from_fingerprint(labels.fingerprint, len(distilled))
        self.images, self.targets, self.labels = distilled.images, distilled.labels, labels
        self.normalization = normalization or distilled.normalization or IMAGENET
        self.dense, self.dtype = dense, dtype
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that stay between epochs

    @property
    def epochs(self) -> int:
        """How many epochs there are labels for."""
        return self.labels.layout.epochs

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch; also for the persistent workers of a loader, from their next batch on.

        Raises:
            ValueError: there are no labels for it.
        """
        self.labels.file(epoch)
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return self.replay.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor | TopKLabels]:
        """Views [n, 3, h, w] and logits [n, C] (or as stored) of batch ``step``; n may be smaller in the last one."""
        if not 0 <= step < len(self):
            raise IndexError(f"step: got {step}, expected 0 .. {len(self) - 1}")
        epoch = int(self._epoch)
        views = self.replay.views(epoch, step)
        pixels = render(self.images, views, self.replay.view, self.normalization, dtype=self.dtype)
        read = self.labels.dense if self.dense else self.labels.read
        return pixels, read(epoch, views.index)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | TopKLabels]]:
        return (self[step] for step in range(len(self)))

    def dataloader(self, **options: Any) -> DataLoader[tuple[Tensor, Tensor | TopKLabels]]:
        """A ``DataLoader`` over the batches in order; ``options`` such as ``num_workers`` are its own."""
        return DataLoader(self, batch_size=None, shuffle=False, **options)


class ImageLabelDataset(Dataset[tuple[Any, Tensor]]):
    """(image, logits float32 [C]) of each image, for labels of plain images; any sampler and batch size will do.

    Args:
        distilled: the set that the labels belong to.
        labels: its label store.
        transform: applied to the image, uint8 [3, H, W]; None normalises it to float32.
        normalization: for the default transform; None for the set's own (ImageNet's where it names none).

    Raises:
        LabelMismatchError: labels of another set.
        ValueError: labels of views (use `SoftLabelDataset`), or for another number of classes.
    """

    def __init__(
        self,
        distilled: DistilledSet,
        labels: LabelStore,
        transform: Callable[[Tensor], Any] | None = None,
        *,
        normalization: Normalization | None = None,
    ) -> None:
        _check(distilled, labels)
        if not labels.per_image:
            raise ValueError(f"labels: {labels.path} holds labels of views; SoftLabelDataset makes those views again")
        self.images, self.targets, self.labels = distilled.images, distilled.labels, labels
        self.transform = transform or _Normalize(normalization or distilled.normalization or IMAGENET)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        logits = self.labels.dense(0, [index])[0]
        return self.transform(self.images[index].permute(2, 0, 1)), logits


class _Normalize:
    """uint8 [3, H, W] to float32: (x / 255 - mean) / std."""

    def __init__(self, normalization: Normalization) -> None:
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (normalization.mean, normalization.std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image.float() / 255 - self.mean) / self.std


def _check(distilled: DistilledSet, labels: LabelStore) -> None:
    labels.check({"set": set_fingerprint(distilled.images, distilled.labels)})
    classes = len(distilled.class_names)
    if labels.layout.classes != classes:
        raise ValueError(f"labels: {labels.path} has {labels.layout.classes} classes, the set {classes}")
