"""PDD's published settings."""

from __future__ import annotations

from typing import Any

# Networks a stage begins at, where the paper trains a new one for each that is matched on (pool=0).
_POOL = 100


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


def _dc(base: str, per_stage: int, outer: int, inner: int) -> dict[str, Any]:
    """PDD on DC or DSA. The paper does not give its loops: these are DC's own for a stage's images per class."""
    return {
        "base": base, "stages": 5, "ipc_per_stage": per_stage, "base_preset": "cifar10-ipc10",
        "base_option": {"outer": outer, "inner": inner, "iterations": 1000},
        "transition_epochs": 300 if base == "dc" else 1000, "pool": _POOL,
    }  # fmt: skip


_TINY: dict[str, Any] = {"size": 64, "depth": 4, "zca": False, "lr_img": 1e4}

# Named [base,] data set, images per class of a stage x stages, after the authors' README.
PRESETS: dict[str, dict[str, Any]] = {
    "cifar10-2x5": _mtt(2, 50, 2, 5, 20, 1e-7),
    "cifar10-10x5": _mtt(10, 30, 2, 15, 100, 1e-5),
    "cifar100-2x5": _mtt(2, 20, 3, 20, 200, 1e-5),
    "cifar100-10x5": _mtt(10, 20, 2, 20, 512, 1e-5),
    "tinyimagenet-2x5": _mtt(2, 20, 2, 20, 64, 1e-4, **_TINY),
    "tinyimagenet-10x5": _mtt(10, 20, 2, 20, 64, 1e-4, **_TINY),
    **{
        f"idc-{name}-{per_stage}x5": {
            "base": "idc",
            "stages": 5,
            "ipc_per_stage": per_stage,
            "base_preset": f"{name}-ipc10",
            "base_option": {"n_data": 2000, "iterations": 100 * networks, "inner_loop": 100},
            "transition_epochs": 200,
            "pool": _POOL,
        }
        for name, per_stage, networks in (
            ("cifar10", 2, 2000),
            ("cifar10", 10, 2000),
            ("cifar100", 2, 2000),
            ("cifar100", 10, 1000),
        )
    },
    "dc-cifar10-2x5": _dc("dc", 2, 2, 6),
    "dc-cifar10-10x5": _dc("dc", 10, 10, 50),
    "dsa-cifar10-2x5": _dc("dsa", 2, 2, 6),
    "dsa-cifar10-10x5": _dc("dsa", 10, 10, 50),
    "smoke": {"stages": 2, "ipc_per_stage": 1, "transition_epochs": 20, "pool": 2, "base_preset": "smoke"},
}
