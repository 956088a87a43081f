"""Distilled sets in the layouts that other programs read: ImageFolder, DD-Ranking's tensors, Hugging Face parquet."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast._types import IMAGENET, Normalization
from ddfast.store.codec import ImageFormat
from ddfast.store.distilled import DistilledSet
from ddfast.store.files import TEMPORARY_PREFIX
from ddfast.store.hub import write_hub
from ddfast.store.layout import class_files

CIFAR = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
# DD-Ranking 0.2's names, and the statistics it normalises their test pictures with
DATASETS = {
    "CIFAR10": (CIFAR, "ConvNet-3", 32),
    "CIFAR100": (CIFAR, "ConvNet-3", 32),
    "TinyImageNet": (IMAGENET, "ConvNet-4", 64),
    "ImageNet1K": (IMAGENET, "ResNet-18-BN", 224),
    "ImageNette": (IMAGENET, "ConvNet-5", 128),
    "ImageWoof": (IMAGENET, "ConvNet-5", 128),
}
_SOURCES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tiny-imagenet": "TinyImageNet", "imagenette": "ImageNette",
            "imagewoof": "ImageWoof", "imagenet": "ImageNet1K"}  # fmt: skip


def export(
    distilled: DistilledSet | str | os.PathLike[str], to: str, out: str | os.PathLike[str], **options: Any
) -> Path:
    """Writes a set to a new folder. The folder appears when all of it is written, or not at all.

    Images are those that students train on: decoded ones, where the set's are decoded (`DistilledSet.decoded`).

    Args:
        distilled: the set or its folder.
        to: ``"imagefolder"``, ``"ddranking"`` or ``"huggingface"``.
        out: a folder that does not exist or is empty.
        **options: of `write_imagefolder` or `write_ddranking`.

    Returns:
        The folder.

    Raises:
        ValueError: unknown layout, or a set that does not fit it.
        TypeError: an option that the layout does not have.
        FileExistsError: the folder holds something.
        ImportError: Hugging Face parquet without pyarrow.
    """
    if to not in EXPORTERS:
        raise ValueError(f"to: got {to!r}, expected one of {', '.join(sorted(EXPORTERS))}")
    target = Path(out)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise FileExistsError(f"{target}: exists and is not an empty folder; choose another or delete it first")
    loaded = (distilled if isinstance(distilled, DistilledSet) else DistilledSet.load(distilled)).decoded()
    building = target.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{target.name}"
    try:
        building.mkdir(parents=True)
        EXPORTERS[to](loaded, building, **options)
        if target.exists():
            target.rmdir()
        os.rename(building, target)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return target


def write_imagefolder(distilled: DistilledSet, out: Path, *, jpeg: bool = False) -> None:
    """``train/{class:05d}/class{class:05d}_id{id:05d}.png`` for torchvision's ImageFolder, and ``classes.json``.

    Folders are zero-padded numbers, so their sorted order is the label order; ``classes.json`` lists the names.

    Args:
        distilled: the set.
        out: an empty folder.
        jpeg: JPEG of quality 95 with full chroma instead of lossless PNG.
    """
    image_format = ImageFormat("jpeg", 95, "4:4:4") if jpeg else ImageFormat("png")
    for label in range(len(distilled.class_names)):
        (out / "train" / f"{label:05d}").mkdir(parents=True)
        for name, data in class_files(label, distilled.images[distilled.labels == label], image_format).items():
            (out / "train" / name).write_bytes(data)
    _write_json(out / "classes.json", list(distilled.class_names))


def write_ddranking(distilled: DistilledSet, out: Path, *, dataset: str | None = None) -> None:
    """``images.pt``, ``labels.pt``, ``lr.pt`` and ``ddranking.yaml`` for DD-Ranking 0.2 (Li et al., arXiv 2505.13300).

    Images are float32 [C * ipc, 3, H, W], normalised with the statistics that DD-Ranking has for the data set, class
    after class; hard labels int64. Soft labels (a set's extra ``soft_logits`` [N, C]) are written as logits beside
    them, ``soft_labels.pt``, since DD-Ranking applies softmax itself.

    Args:
        distilled: the set; every class needs as many images as the others.
        out: an empty folder.
        dataset: DD-Ranking's name; None for the one that the manifest's source suggests.

    Raises:
        ValueError: classes of different sizes, or a data set that DD-Ranking does not know.
    """
    if len(set(distilled.counts)) != 1:
        low, high = min(distilled.counts), max(distilled.counts)
        raise ValueError(f"distilled: has {low} to {high} images per class, DD-Ranking expects as many of each class")
    name = dataset or _SOURCES.get(str((distilled.manifest.get("source") or {}).get("name")))
    if name not in DATASETS:
        raise ValueError(f"dataset: got {name!r}, expected one of DD-Ranking's, {', '.join(DATASETS)}")
    normalization, model, _ = DATASETS[name]
    order = torch.argsort(distilled.labels, stable=True)
    torch.save(normalised(distilled.images[order], normalization), out / "images.pt")
    torch.save(distilled.labels[order].clone(), out / "labels.pt")
    torch.save(distilled.extras.get("lr", torch.tensor(0.01)).reshape(()).float(), out / "lr.pt")
    if "soft_logits" in distilled.extras:
        torch.save(distilled.extras["soft_logits"][order].float(), out / "soft_labels.pt")
    (out / "ddranking.yaml").write_text(_yaml(name, model, distilled), encoding="utf-8")


def normalised(images: Tensor, normalization: Normalization) -> Tensor:
    """uint8 [n, H, W, 3] to float32 [n, 3, H, W] contiguous: (x / 255 - mean) / std."""
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (normalization.mean, normalization.std))
    return ((images.permute(0, 3, 1, 2).double() / 255 - mean) / std).float().contiguous()


def _yaml(dataset: str, model: str, distilled: DistilledSet) -> str:
    """Settings of the paths that work in DD-Ranking 0.2; both transform keys must be there, null or not."""
    height, width = distilled.images.shape[1:3]
    soft = "soft_logits" in distilled.extras
    values: dict[str, Any] = {
        "dataset": dataset, "real_data_path": "./dataset/", "ipc": distilled.ipc, "im_size": [height, width],
        "model_name": model, "use_torchvision": False, "stu_use_torchvision": False, "tea_use_torchvision": False,
        "teacher_dir": "./teacher_models", "teacher_model_names": [model], "data_aug_func": "dsa",
        "aug_params": {"prob_flip": 0.5, "flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0,
                       "contrast": 0.5, "scale": 1.2, "crop": 0.125, "cutout": 0.5},
        "use_zca": False, "use_aug_for_hard": False, "custom_train_trans": None, "custom_val_trans": None,
        "soft_label_mode": "S" if soft else "M", "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": 20.0, "scale_loss": False}, "optimizer": "sgd", "lr_scheduler": "step",
        "step_size": 500, "weight_decay": 0.0005, "momentum": 0.9, "num_eval": 5, "num_epochs": 1000, "num_workers": 4,
        "syn_batch_size": 256, "real_batch_size": 256, "device": "cuda", "dist": False, "eval_full_data": False,
        "random_data_format": "image", "random_data_path": "./random_data", "save_path": "./results.csv",
    }  # fmt: skip
    # JSON values are YAML values; a line a key keeps the file readable
    lines = [f"{key}: {json.dumps(value)}" for key, value in values.items()]
    return (
        "# DD-Ranking 0.2: images.pt, labels.pt and lr.pt of this folder are its image_tensor, hard_labels, syn_lr\n"
        + ("\n".join(lines) + "\n")
    )


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


EXPORTERS: dict[str, Callable[..., None]] = {
    "imagefolder": write_imagefolder,
    "ddranking": write_ddranking,
    "huggingface": write_hub,
}
