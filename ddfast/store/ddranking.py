"""Distilled sets for DD-Ranking 0.2 (Li et al., arXiv 2505.13300): tensors, and settings of what works in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch

from ddfast._types import IMAGENET, Normalization
from ddfast.store.distilled import DistilledSet
from ddfast.store.peers import class_major, normalised_images, save_rate

CIFAR = Normalization((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
# DD-Ranking's names, classes, the statistics it normalises test pictures with, a network: of the small sets one that
# its table of trainings on real data has, of ImageNet one whose accuracy it knows
DATASETS = {
    "CIFAR10": (10, CIFAR, "ConvNet-3"),
    "CIFAR100": (100, CIFAR, "ConvNet-3"),
    "TinyImageNet": (200, IMAGENET, "ConvNet-4-BN"),
    "ImageNet1K": (1000, IMAGENET, "ResNet-18-BN"),
    **{f"Image{name}": (10, IMAGENET, "ConvNet-5") for name in ("Nette", "Woof", "Meow", "Squawk", "Fruit", "Yellow")},
}
# Labels of DD-Ranking's subsets are places in these lists of ImageNet-1K classes (MTT's), which mostly are not sorted
_LISTED = {  # after Image
    "Nette": "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257",
    "Woof": "n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 n02099601 n02105641",
    "Meow": "n02123045 n02123159 n02123394 n02123597 n02124075 n02129165 n02129604 n02128925 n02128757 n02127052",
    "Squawk": "n01806143 n02007558 n01818515 n02051845 n02056570 n01614925 n01843383 n01518878 n01860187 n01819313",
    "Fruit": "n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113 n07720875 n07718472 n07742313",
    "Yellow": "n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642 n02129165 n01773157 n01531178",
}
SUBSETS = {f"Image{name}": tuple(wnids.split()) for name, wnids in _LISTED.items()}
_SOURCES = {"cifar10": "CIFAR10", "cifar100": "CIFAR100", "tiny-imagenet": "TinyImageNet", "imagenette": "ImageNette",
            "imagewoof": "ImageWoof", "imagenet": "ImageNet1K"}  # fmt: skip
_WORDNET = re.compile(r"n\d{8}")
_HEAD = """\
# DD-Ranking 0.2. LabelRobustScoreSoft(Config.from_file("ddranking.yaml")).compute_metrics(image_tensor=torch.load(
# "images.pt"), syn_lr=torch.load("lr.pt")) runs; without lr.pt leave syn_lr out, and it is searched. Teachers are
# expected at teacher_models/<dataset>/<model>/ckpt_best.pt. AugmentationRobustScore runs with lr_scheduler: cosine.
# Stored soft labels (mode S) and LabelRobustScoreHard fail in that version. It takes percent where its score wants
# shares: lrs = (exp(a) - exp(-1)) / (exp(1) - exp(-1)) with a = 0.5 * (ior - hlr) / 100.
"""
_WHITENED = """\
# The set was distilled whitened (ZCA). images.pt holds its visible pixels, normalised, not what was trained; the rate
# belongs to the whitened images, so there is no lr.pt. ddfast evaluate trains on those, export --to mtt writes them.
"""
_SUBSET = "# On subsets of ImageNet that version stops with an AttributeError; the tensors are in its class order.\n"


def write_ddranking(distilled: DistilledSet, out: Path, *, dataset: str | None = None) -> None:
    """``images.pt``, ``labels.pt``, ``lr.pt`` and ``ddranking.yaml`` for DD-Ranking 0.2.

    Images are float32 [C * ipc, 3, H, W], normalised with the statistics that DD-Ranking has for the data set, class
    after class: as the method trained them where the set has that (not those of ZCA), else its pixels; hard labels
    int64. ``lr.pt`` is the student's rate, absent where the set names none, and for sets of ZCA, whose rate was learned
    for whitened images. Soft labels (a set's extra ``soft_logits``
    [N, C]) are written as logits beside them, ``soft_labels.pt``, since DD-Ranking applies softmax itself.

    Args:
        distilled: the set; every class needs as many images as the others.
        out: an empty folder.
        dataset: DD-Ranking's name; None for the one that the manifest's source suggests.

    Raises:
        ValueError: classes of different sizes, a data set that DD-Ranking does not know or that has another number of
            classes, or a subset of ImageNet in unknown order.
    """
    name = dataset or _SOURCES.get(str((distilled.manifest.get("source") or {}).get("name")))
    if name not in DATASETS:
        given = "none given" if name is None else f"got {name!r}"
        raise ValueError(f"dataset (--dataset): {given}; DD-Ranking knows only {', '.join(DATASETS)}")
    count, normalization, model = DATASETS[name]
    if len(distilled.class_names) != count:
        raise ValueError(f"dataset: got {name!r} for a set of {len(distilled.class_names)} classes, it has {count}")
    classes = _class_order(distilled, name)
    order = class_major(distilled, classes)
    place = torch.argsort(torch.tensor(classes))
    torch.save(normalised_images(distilled, normalization)[order], out / "images.pt")
    torch.save(place[distilled.labels[order]], out / "labels.pt")
    if distilled.manifest.get("space") != "zca":
        save_rate(distilled, out / "lr.pt")
    if "soft_logits" in distilled.extras:
        torch.save(distilled.extras["soft_logits"][order][:, classes].float(), out / "soft_labels.pt")
    (out / "ddranking.yaml").write_text(_yaml(name, model, distilled), "utf-8", "backslashreplace")


def _class_order(distilled: DistilledSet, dataset: str) -> list[int]:
    """Our labels in the order of DD-Ranking's."""
    names = list(distilled.class_names)
    subset = SUBSETS.get(dataset, ())
    named = all(map(_WORDNET.fullmatch, names))
    if not subset or (list(subset) == sorted(subset) and not named):
        return list(range(len(names)))
    if not named:
        raise ValueError(
            f"class_names: got {', '.join(names[:10])}; DD-Ranking's order of {dataset} is not the sorted one, so "
            f"they must be its WordNet ids ({subset[0]} ...)"
        )
    if set(names) != set(subset):
        other = ", ".join(sorted(set(names) - set(subset)))
        raise ValueError(f"class_names: {other} are not of {dataset}, which is {', '.join(subset)}; give its --dataset")
    return [names.index(wnid) for wnid in subset]


def _yaml(dataset: str, model: str, distilled: DistilledSet) -> str:
    _, normalization, _ = DATASETS[dataset]
    size = list(distilled.images.shape[1:3])
    torchvision = dataset == "ImageNet1K"
    # Random pictures reach the student through an ImageFolder, which without transforms cannot be batched
    scale = [] if dataset.startswith("CIFAR") else [{"name": "Resize", "args": {"size": size}}]
    pictures = [
        *scale,
        {"name": "ToTensor", "args": {}},
        {"name": "Normalize", "args": {"mean": list(normalization.mean), "std": list(normalization.std)}},
    ]
    values: dict[str, Any] = {
        "dataset": dataset, "real_data_path": "./dataset/", "ipc": distilled.ipc, "im_size": size,
        "model_name": model, "use_torchvision": torchvision, "stu_use_torchvision": torchvision,
        "tea_use_torchvision": torchvision, "teacher_dir": "./teacher_models", "teacher_model_names": [model],
        "data_aug_func": "dsa",
        "aug_params": {"flip": 0.5, "rotate": 15.0, "saturation": 2.0, "brightness": 1.0, "contrast": 0.5,
                       "scale": 1.2, "crop": 0.125, "cutout": 0.5},
        "use_zca": False, "use_aug_for_hard": False, "custom_train_trans": pictures, "custom_val_trans": None,
        "label_type": "soft", "soft_label_mode": "M", "soft_label_criterion": "kl",
        "loss_fn_kwargs": {"temperature": 20.0, "scale_loss": False}, "optimizer": "sgd", "lr_scheduler": "step",
        "step_size": 500, "weight_decay": 0.0005, "momentum": 0.9, "num_eval": 5, "num_epochs": 1000, "num_workers": 4,
        "syn_batch_size": 256, "real_batch_size": 256, "batch_size": 256, "device": "cuda", "dist": False,
        "eval_full_data": dataset != "ImageNet1K", "random_data_format": "image", "random_data_path": "./random_data",
        "save_path": "./results.csv",
    }  # fmt: skip
    # JSON values are YAML values; a line a key keeps the file readable
    lines = [f"{key}: {json.dumps(value)}\n" for key, value in values.items()]
    notes = (_SUBSET if dataset in SUBSETS else "", _WHITENED if distilled.manifest.get("space") == "zca" else "")
    return _HEAD + "".join(notes) + "".join(lines)
