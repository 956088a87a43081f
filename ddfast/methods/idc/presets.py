"""Settings of IDC's program for the tables of its paper."""

from __future__ import annotations

from typing import Any

from ddfast.train.idc_augment import STUDENT

_CIFAR: dict[str, Any] = {"eval_epochs": 1000}
_GREY: dict[str, Any] = {"size": 28, "lr_img_size": 28, "metric": "l1", "lr_img": 1e-4, "n_data": 500}
# with decoded digits neither CutMix nor cutout helps, and digits are not mirrored
_MNIST = {**_GREY, "dsa": "color_crop", "cutmix": 0.0, "dsa_student": "color_crop_scale_rotate"}
_SVHN: dict[str, Any] = {"n_data": 500, "dsa_student": STUDENT.replace("_flip", "")}
_IMAGENET: dict[str, Any] = {
    "architecture": "resnetap10", "size": 224, "lr_img_size": 224, "formation": 3, "metric": "l1", "n_data": 500,
    "iterations": 50_000, "eval_every": 5_000, "cutmix": 1.0, "test": "none",
}  # fmt: skip
_TEN: dict[str, Any] = {**_IMAGENET, "lr_img": 3e-3, "early": 10}
_HUNDRED: dict[str, Any] = {
    **_IMAGENET, "lr_img": 1e-3, "lr_net": 0.1, "weight_decay": 1e-4, "batch_net": 128, "batch_real": 128,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    **{
        f"{name}-ipc{ipc}": {**settings, "ipc": ipc}
        for name, settings in (
            ("cifar10", _CIFAR), ("cifar100", _CIFAR), ("svhn", _SVHN), ("mnist", _MNIST), ("fashionmnist", _GREY),
        )
        for ipc in (1, 10, 50)
    },
    **{
        f"{name}-ipc{ipc}": {**settings, "ipc": ipc, "decode": "bound" if ipc >= 20 else "single"}
        for name, settings in (("imagenet10", _TEN), ("imagenet100", _HUNDRED))
        for ipc in (10, 20)
    },
    "smoke": {
        **_MNIST, "size": 32, "lr_img_size": 32, "metric": "mse", "lr_img": 0.5, "width": 32, "ipc": 1,
        "iterations": 60, "inner_loop": 15, "n_data": 128, "batch_real": 32, "eval_every": 30, "eval_students": 1,
        "eval_epochs": 60,
    },
}  # fmt: skip
