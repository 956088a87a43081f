"""Recipes for stored soft labels: labels belong to the views, order and batches that they were made for."""

from __future__ import annotations

from dataclasses import replace

from ddfast.store import LabelStore
from ddfast.train import StudentConfig


def fitted(config: StudentConfig, labels: LabelStore) -> StudentConfig:
    """``config`` with the augmentation, batch size and at most the epochs that ``labels`` were made for.

    Labels of plain images, one each, fit every recipe; top-k labels are exact at one temperature, which is taken.

    Args:
        config: the recipe.
        labels: the store.

    Raises:
        ValueError: labels of views with mixup, which students are not trained with here.
    """
    if labels.layout.kind == "topk":
        config = replace(config, temperature=labels.layout.tail_temperature)
    if labels.per_image:
        return config
    view = labels.fingerprint["view"]
    if view["mix"] == "mixup":
        raise ValueError(
            f"labels: {labels.path} is of views with mixup, students are trained with CutMix or without mixing; make "
            "labels of such views with ddfast relabel"
        )
    scale = view["scale"]
    return replace(
        config,
        factor=int(view["factor"]),
        crop=None if scale is None else (float(scale[0]), float(scale[1])),
        flip=bool(view["flip"]),
        shift=int(view["shift"]),
        cutmix_alpha=float(view["alpha"]) if view["mix"] == "cutmix" else 0.0,
        batch_size=int(labels.fingerprint["batch_size"]),
        epochs=min(config.epochs, labels.layout.epochs),
    )
