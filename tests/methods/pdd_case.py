"""PDD on the tiny problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ddfast
from tests.methods.matching_case import SETTINGS, source

MTT: dict[str, Any] = {
    **SETTINGS, "width": 8, "iterations": 4, "zca": False, "experts": 2, "expert_train_epochs": 2,
    "expert_lr": 0.05, "expert_batch": 8,
    "syn_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "lr_img": 5.0, "lr_lr": 1e-4, "lr_teacher": 0.05,
    "momentum": 0.5,
}  # fmt: skip


def pdd(out: Path, *, options: dict[str, Any] | None = None, **changes: Any) -> ddfast.DistilledSet:
    given: dict[str, Any] = {"stages": 2, "ipc_per_stage": 2, "transition_epochs": 3, "quiet": True, **changes}
    if given.get("base", "mtt") == "mtt":
        options = {**MTT, **(options or {})}
    return ddfast.distill("pdd", source(), out=out, base_option=options, **given)
