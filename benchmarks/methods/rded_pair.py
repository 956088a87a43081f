"""RDED by ddfast and by the transcription on the same files, crops and observer, and whether they chose the same."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import simplejpeg
import torch
from torch import Tensor, nn

import ddfast
from benchmarks.baselines import rded_reference as reference
from ddfast._types import Normalization
from ddfast.data import draw_rrc_boxes, open_source
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.scorer import draw_positions
from ddfast.nets import Observer, map_classes

# Relative to 1 + loss: several times the largest float32 error of these observers' losses.
TIE = 2e-5


class SelectionDiffersError(AssertionError):
    """The two chose differently and no tie in float32 explains it; a speed comparison would be worth nothing."""


@dataclass(frozen=True)
class Size:
    """How much of the data to use."""

    classes: int
    mipc: int
    ipc: int


SIZES = {"smoke": Size(2, 20, 2), "medium": Size(4, 60, 5), "full": Size(20, 110, 10)}


@dataclass(frozen=True)
class Timed:
    """Wall seconds and CPU seconds (of this process and its children) of one run."""

    wall: float
    cpu: float
    result: Any


@dataclass(frozen=True)
class Agreement:
    """Patches compared, how many are the same file and box at the same rank, and the largest score difference."""

    patches: int
    identical: int
    worst: float

    def text(self) -> str:
        """For the report."""
        ties = self.patches - self.identical
        tail = f", {ties} swapped within float32 ties" if ties else ""
        return f"{self.identical} of {self.patches} patches identical{tail}"


class Reordered(nn.Module):
    """The observer with the source's classes first, as the transcription expects; the softmax is over all classes."""

    def __init__(self, module: nn.Module, targets: list[int], count: int) -> None:
        super().__init__()
        rest = sorted(set(range(count)) - set(targets))
        self.module = module
        self.order = torch.tensor(targets + rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)[:, self.order]


def link_classes(train: Path, target: Path, count: int) -> Path:
    """A folder with the first ``count`` class folders of ``train``, by symbolic links."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in sorted(path for path in train.iterdir() if path.is_dir())[:count]:
        (target / folder.name).symlink_to(folder, target_is_directory=True)
    return target


def timed(run: Callable[[], Any]) -> Timed:
    """Run once and measure."""
    wall, cpu = time.perf_counter(), _cpu_seconds()
    result = run()
    return Timed(time.perf_counter() - wall, _cpu_seconds() - cpu, result)


def run_reference(train: Path, out: Path, observer: Observer, config: RDEDConfig, workers: int) -> Timed:
    """The transcription on ddfast's draws. Drawing them is not timed."""
    draws = list(draws_of(train, config))
    targets = map_classes(open_source(train).class_names, observer.num_classes, observer.class_names)
    net = Reordered(observer.module, targets.tolist(), observer.num_classes)
    normalization: Normalization = observer.normalization
    return timed(
        lambda: reference.distill(
            train,
            net,
            out,
            nclass=len(draws),
            ipc=config.ipc,
            mipc=len(draws[0].paths),
            num_crop=config.num_crop,
            size=config.size,
            factor=config.factor,
            workers=workers,
            mean=normalization.mean,
            std=normalization.std,
            draws=draws,
        )
    )


def run_ddfast(train: Path, out: Path, observer: Observer, config: RDEDConfig, precision: str, workers: int) -> Timed:
    """``ddfast.distill`` from the call to the finished folder."""
    return timed(
        lambda: ddfast.distill(
            "rded",
            train,
            observer=observer,
            out=out,
            ipc=config.ipc,
            mipc=config.mipc,
            num_crop=config.num_crop,
            size=config.size,
            factor=config.factor,
            seed=config.seed,
            precision=precision,
            rounding="truncate",
            workers=workers,
            device="cpu",
            check_classes=False,
            quiet=True,
        )
    )


def draws_of(train: Path, config: RDEDConfig) -> Iterator[reference.Draw]:
    """The pictures and boxes ddfast draws for each class."""
    source = open_source(train)
    for label in range(len(source.class_names)):
        positions = draw_positions(config, label, source.count(label))
        paths = [train / source.sample_id(label, int(position)) for position in positions]
        sizes = [simplejpeg.decode_jpeg_header(path.read_bytes())[:2] for path in paths]
        boxes = draw_rrc_boxes(config.seed, label, positions, sizes, config.num_crop, config.scale)
        yield reference.Draw([str(path) for path in paths], [[tuple(box) for box in row] for row in boxes.tolist()])


def agreement(baseline: reference.ReferenceRun, manifest: dict[str, Any], ipc: int) -> Agreement:
    """Compare rank by rank.

    Raises:
        SelectionDiffersError: at some rank the losses differ by more than float32 can explain.
    """
    ours: dict[tuple[int, int], dict[str, Any]] = {}
    counter: dict[int, int] = {}
    for image in manifest["images"]:
        label = image["label"]
        number = counter.setdefault(label, 0)
        counter[label] += 1
        for cell, patch in enumerate(image["cells"]):
            ours[label, cell * ipc + number] = patch
    if len(ours) != len(baseline.chosen):
        raise SelectionDiffersError(f"{len(ours)} patches against {len(baseline.chosen)} of the transcription")
    identical, worst = 0, 0.0
    for choice in baseline.chosen:
        patch = ours[choice.label, choice.rank]
        path = Path(choice.path)
        if patch["sample"] == f"{path.parent.name}/{path.name}" and tuple(patch["box"]) == choice.box:
            identical += 1  # its score may be a bf16 one: clear winners are not scored again
            continue
        difference = abs(float(patch["score"]) - choice.score)
        if difference > TIE * (1 + abs(choice.score)):
            raise SelectionDiffersError(
                f"class {choice.label}, rank {choice.rank}: ddfast took {patch}, the transcription {choice}"
            )
        worst = max(worst, difference)
    return Agreement(len(ours), identical, worst)


def _cpu_seconds() -> float:
    usage = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in usage)
