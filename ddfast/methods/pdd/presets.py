"""PDD's published settings."""

from __future__ import annotations

from typing import Any


def _mtt(
    per_stage: int, steps: int, span: int, start: int, batch: int, lr_lr: float, *, lr_img: float = 1000.0,
    zca: bool = True, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """A row of PDD on MTT. Experts are trained no longer than iterations look: longer ones end in the same images."""
    options = {
        "syn_steps": steps, "expert_epochs": span, "max_start_epoch": start, "batch_syn": batch, "lr_img": lr_img,
        "lr_lr": lr_lr, "lr_teacher": 0.01, "zca": zca, "expert_train_epochs": start - 1 + span, **more,
    }  # fmt: skip
    return {"base": "mtt", "stages": 5, "ipc_per_stage": per_stage, "base_option": options}


_TINY: dict[str, Any] = {"size": 64, "depth": 4, "zca": False, "lr_img": 1e4}

# Named data set, images per class of a stage x stages, after the authors' README.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10-2x5": _mtt(2, 50, 2, 5, 20, 1e-7),
    "cifar10-10x5": _mtt(10, 30, 2, 15, 100, 1e-5),
    "cifar100-2x5": _mtt(2, 20, 3, 20, 200, 1e-5),
    "cifar100-10x5": _mtt(10, 20, 2, 20, 512, 1e-5),
    "tinyimagenet-2x5": _mtt(2, 20, 2, 20, 64, 1e-4, **_TINY),
    "tinyimagenet-10x5": _mtt(10, 20, 2, 20, 64, 1e-4, **_TINY),
    "smoke": {"stages": 2, "ipc_per_stage": 1, "transition_epochs": 20, "pool": 2, "base_preset": "smoke"},
}
