"""Distilled sets as the tensors that programs of the MTT family and DD-Ranking load."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._types import IMAGENET, Normalization
from ddfast.store.distilled import DistilledSet
from ddfast.store.provenance import normalization_to_json

LABELS = ("hard", "soft")


def write_mtt(distilled: DistilledSet, out: Path, *, labels: str = "hard") -> None:
    """``images_best.pt``, ``labels_best.pt`` and ``lr_best.pt``, as MTT, TESLA and DATM write and load them.

    Images are float32 [C * ipc, 3, H, W], class after class, in the space that they were trained in: as the method
    left them where the set has that (``extras["trained_images"]``, whitened if it was distilled with ZCA), else pixels
    normalised by the set's statistics (ImageNet's where it names none). ``lr_best.pt`` is a 0-d float32 tensor, the
    student's rate: a learned one, of a staged set the last stage's, or the recipe's; absent where the set names none.
    ``space.json`` says what such files leave to memory: the space, its statistics, class names. Of a whitened set that
    holds its whitening, ``zca.pt`` is a dict of ``mean`` [D] and ``matrix`` [D, D]: test pictures, in [0, 1] and
    flattened in [channel, row, column] order, become ``(x - mean) @ matrix``.

    Args:
        distilled: the set; every class needs as many images as the others.
        out: an empty folder.
        labels: "hard", int64 [C * ipc] (MTT), or "soft", logits float32 [C * ipc, C] (DATM; from the set's extra
            ``soft_logits``).

    Raises:
        ValueError: classes of different sizes, other ``labels``, or no soft labels in the set.
    """
    if labels not in LABELS:
        raise ValueError(f"labels: got {labels!r}, expected 'hard' or 'soft'")
    if labels == "soft" and "soft_logits" not in distilled.extras:
        raise ValueError("labels: got 'soft', but the set has no soft_logits; export it with labels='hard'")
    order = class_major(distilled)
    norm = distilled.normalization or IMAGENET
    whitened = _trained(distilled) is not None and distilled.manifest.get("space") == "zca"
    images = _trained(distilled)
    torch.save(normalised(distilled.images, norm)[order] if images is None else images[order], out / "images_best.pt")
    targets = distilled.labels if labels == "hard" else distilled.extras["soft_logits"].float()
    torch.save(targets[order].clone(), out / "labels_best.pt")
    save_rate(distilled, out / "lr_best.pt")
    if whitened and distilled.whitening is not None:
        torch.save({"mean": distilled.whitening.mean, "matrix": distilled.whitening.matrix}, out / "zca.pt")
    note = {
        "space": "zca" if whitened else "normalized",
        "normalization": None if whitened else normalization_to_json(norm),
        "whitening": "zca.pt" if whitened and distilled.whitening is not None else None,
        "ipc": distilled.ipc,
        "class_names": list(distilled.class_names),
    }
    (out / "space.json").write_text(json.dumps(note, ensure_ascii=False, indent=1) + "\n", "utf-8", "backslashreplace")


def without_tensors(distilled: DistilledSet) -> tuple[DistilledSet, list[str]]:
    """The set as a layout for pictures holds it, and what is left out: extras, whitening, and what the manifest says of
    these."""
    gone = [key for key in ("distribution", "soft_labels") if distilled.manifest.get(key) is not None]
    manifest = {key: value for key, value in distilled.manifest.items() if key not in gone}
    gone += ["whitening"] if distilled.whitening is not None else []
    kinds = {name.partition(".")[0] for name in distilled.extras} - {"lr"}  # which the manifest has
    return DistilledSet(distilled.images, distilled.labels, distilled.class_names, manifest), sorted({*kinds, *gone})


def class_major(distilled: DistilledSet, classes: Sequence[int] | None = None) -> Tensor:
    """int64 [N]: the set's images class after class; ``classes`` is their order, None for that of the labels.

    Raises:
        ValueError: classes have different numbers of images.
    """
    if len(set(distilled.counts)) != 1:
        low, high = min(distilled.counts), max(distilled.counts)
        raise ValueError(
            f"distilled: has {low} to {high} images per class, but these files hold as many of each class; export to "
            "imagefolder or huggingface instead"
        )
    order = range(len(distilled.class_names)) if classes is None else classes
    return torch.cat([torch.nonzero(distilled.labels == label)[:, 0] for label in order])


def normalised_images(distilled: DistilledSet, normalization: Normalization) -> Tensor:
    """float32 [N, 3, H, W] in ``normalization``: the images as a method trained them, or else the set's pixels.

    Whitened images (ZCA) have no place in a normalised space; their visible pixels are taken.
    """
    trained = _trained(distilled)
    if trained is None or distilled.manifest.get("space") == "zca":
        return normalised(distilled.images, normalization)
    own = distilled.normalization or IMAGENET
    if own == normalization:
        return trained
    (mean, std), (new_mean, new_std) = (_constants(each) for each in (own, normalization))
    return ((trained.double() * std + mean - new_mean) / new_std).float()


def normalised(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] contiguous: (x / 255 - mean) / std."""
    mean, std = _constants(normalization)
    return ((images.cpu().permute(0, 3, 1, 2).double() / 255 - mean) / std).float().contiguous()


def save_rate(distilled: DistilledSet, path: Path) -> float | None:
    """Writes the student's rate as a 0-d float32 tensor, if the set has one, and returns it."""
    found: Any = distilled.extras.get("lr")
    rate = distilled.manifest.get("lr") if found is None or not found.numel() else float(found.flatten()[-1])
    if rate is not None:
        torch.save(torch.tensor(float(rate)), path)
    return rate


def _trained(distilled: DistilledSet) -> Tensor | None:
    found = distilled.extras.get("trained_images")
    return None if found is None else found.detach().cpu().float().contiguous()


def _constants(normalization: Normalization) -> tuple[Tensor, Tensor]:
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (normalization.mean, normalization.std))
    return mean, std
