"""Every phase that runs through a ledger, on problems so small that a whole run takes a second or less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ddfast.evaluation import evaluate, read_report
from ddfast.methods import distill_to
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.relabel import relabel
from tests.evaluation import eval_case
from tests.methods import d3_case, matching_case, pdd_case, rded_case
from tests.train import label_helpers

_QUIET: dict[str, Any] = {"device": "cpu", "quiet": True, "resume": True}
_MATCHING: dict[str, Any] = {
    "ipc": 1, "size": 8, "depth": 2, "width": 8, "iterations": 4, "eval_every": 2, "eval_students": 1,
    "eval_epochs": 2, **_QUIET,
}  # fmt: skip
_MTT = {**pdd_case.MTT, **_MATCHING, "experts": 3, "expert_train_epochs": 3}
_RDED: dict[str, Any] = {
    "ipc": 1, "factor": 2, "mipc": 8, "num_crop": 2, "size": 16, "check_classes": False, "engine": "torch",
    "workers": 1, "batch_images": 4, **_QUIET,
}  # fmt: skip


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a run but those that say how long it took."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in sorted(files.items()) if path.name != "timings.json"}


def _report(out: Path) -> dict[str, Any]:
    """What an evaluation found, and which files it left; those tell seconds."""
    return {"report": eval_case.settled(read_report(out)), "files": sorted(contents(out))}


def _small_net(classes: int) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(32, classes),
    ).eval()  # fmt: skip


def _rded(out: Path) -> None:
    distill_to("rded", d3_case.source(), out, observer=_small_net(6), **_RDED)


def _parity(out: Path) -> None:
    settings = {key: value for key, value in _RDED.items() if key not in ("workers", "batch_images")}
    pictures = out.parent / "pictures"
    if not pictures.exists():
        rded_case.write_pictures(pictures, 3, 8)
    distill_to(
        "rded",
        pictures,
        out,
        observer=_small_net(3),
        parity=True,
        rounding="truncate",
        format="folder",
        jpeg_quality=75,
        **settings,
    )


def _relabel(out: Path) -> None:
    relabel(
        label_helpers.tiny_set(60), [label_helpers.teacher()], out, view=label_helpers.VIEW, seed=5, epochs=12,
        batch_size=4, kind="fp16", progress="quiet", resume=True,
    )  # fmt: skip


def _experts(out: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(48, 3, 8, 8, generator=generator), torch.arange(48) % 3
    net = FlatConvNet(num_classes=3, input_size=8, depth=2, width=8)
    train_experts(net, images, labels, ExpertConfig(4, 4, 8, 0.05, dsa=""), out, quiet=True, forgetting=True)


def _matching(method: str, **settings: Any) -> Callable[[Path], None]:
    return lambda out: distill_to(method, matching_case.source(), out, **settings)


def _pdd(out: Path) -> None:
    given = {"stages": 2, "ipc_per_stage": 1, "transition_epochs": 3, "base_option": pdd_case.MTT, **_QUIET}
    distill_to("pdd", matching_case.source(), out, **given)


def _evaluate(processes: int) -> Callable[[Path], None]:
    def run(out: Path) -> None:
        settings = {**eval_case.SETTINGS, "epochs": 10, "full_data": False, "ars": False, "processes": processes}
        train, test = eval_case.source(12, 1), eval_case.source(8, 2, "test")
        evaluate(eval_case.small_set(), test, train=train, out=out, resume=True, **settings)

    return run


@dataclass(frozen=True)
class Phase:
    """``run`` starts or goes on in a folder; ``result`` is what must not depend on what befell it."""

    run: Callable[[Path], None]
    result: Callable[[Path], dict[str, Any]] = contents


PHASES: dict[str, Phase] = {
    "rded": Phase(_rded),
    "rded-parity": Phase(_parity),
    "coreset": Phase(_matching("coreset", ipc=2, selection="herding", observer="train:conv3", **_QUIET)),
    "relabel": Phase(_relabel),
    "experts": Phase(_experts),
    "mtt": Phase(_matching("mtt", **_MTT)),
    "dc": Phase(_matching("dc", **_MATCHING, inner=1, outer=2, batch_real=4)),
    "idc": Phase(_matching("idc", **_MATCHING, inner_loop=2, batch_real=4, n_data=8, batch_net=8)),
    "pdd": Phase(_pdd),
    "d3": Phase(lambda out: d3_case.d3(out, resume=True)),
    "evaluate": Phase(_evaluate(1), _report),
    "evaluate-processes": Phase(_evaluate(2), _report),
}
