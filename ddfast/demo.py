"""The demo: real digits distilled on any machine, and an honest look at what students learn from the result."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev

import torch
from torch import Tensor

from ddfast.data import Source, open_source
from ddfast.methods import RunOptions, distill
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.quick_observer import train_observer, whole_images
from ddfast.nets.observers import Observer
from ddfast.runs import RunError, atomic_write_bytes, seeds
from ddfast.store import DistilledSet, contact_sheet_png
from ddfast.train import accuracy, train_student
from ddfast.train.demo_recipe import STUDENT, small_convnet

SIZE, IPC = 32, 10
STUDENTS = 3


@dataclass(frozen=True)
class Row:
    """Top-1 accuracies, in percent, of students trained on one set with one kind of labels."""

    images: str
    labels: str
    accuracies: tuple[float, ...]

    def text(self) -> str:
        return f"  {self.images:28s} {self.labels:14s} {mean(self.accuracies):6.2f} ± {stdev(self.accuracies):.2f} %"


def run_demo(out: Path, *, seed: int = 0, overwrite: bool = False, quiet: bool = False) -> list[Row]:
    """Distils MNIST-5k by RDED and trains students on the result and on random pictures of the same number.

    Trains a small observer on 4,000 digits, distils them to ten images a class, then trains fresh students on the
    distilled set and on a random subset of the same size, once with hard labels and once with the observer's soft
    labels (the same budget, the same augmentation), and tests them on 1,000 digits.  Writes the distilled set, a
    contact sheet and ``results.json`` to ``out``.
    """
    began = time.perf_counter()
    if (out / "distilled").exists() and not overwrite:
        raise RunError(f"{out}: holds an earlier demo; give --overwrite, or another folder with --out")
    source, test = open_source("mnist5k"), open_source("mnist5k:test")
    config = RDEDConfig(ipc=IPC, factor=1, size=SIZE, seed=seed, observer="train:conv3")
    say = _nothing if quiet else print
    say("1. observer")
    observer = train_observer("conv3", source, config, RunOptions(quiet=quiet))
    test_images, test_labels = whole_images(test, SIZE, 10**6)
    top1 = 100 * accuracy(observer.module, test_images, test_labels, normalization=observer.normalization)
    say(f"   tested on {len(test_labels)} other digits: {top1:.2f} %")
    say("2. distil")
    distilled = distill(
        "rded", source, observer=observer, out=out / "distilled", ipc=IPC, factor=1, size=SIZE, seed=seed,
        overwrite=overwrite, quiet=quiet,
    )  # fmt: skip
    say(f"3. {STUDENTS} students on each of two sets of {len(distilled.images)} images, hard and soft labels")
    rows = _compare(distilled, source, observer, test_images, test_labels, seed)
    sheet = contact_sheet_png(distilled)
    atomic_write_bytes(out / "contact_sheet.png", sheet)
    atomic_write_bytes(out / "results.json", json.dumps(_summary(rows, top1), indent=2).encode())
    whole = sum(source.count(c) for c in range(len(source.class_names)))
    print(f"\nTop-1 on {len(test_labels)} test digits, mean ± standard deviation over {STUDENTS} students:")
    print(f"  {f'all {whole} training digits':28s} {'hard':14s} {top1:6.2f} % (the observer)")
    print("\n".join(row.text() for row in rows))
    print(f"\n{out / 'contact_sheet.png'} shows the distilled set ({time.perf_counter() - began:.0f} s in all)")
    return rows


def _nothing(text: str) -> None:
    return None


def _compare(
    distilled: DistilledSet, source: Source, observer: Observer, images: Tensor, labels: Tensor, seed: int
) -> list[Row]:
    sets = {"RDED": (distilled.images, distilled.labels), "random pictures": _random_subset(source, seed)}
    device = next(observer.module.parameters()).device
    rows = []
    for kind in ("hard", "soft"):
        for name, (pictures, targets) in sets.items():
            scores = []
            for student in range(STUDENTS):
                net = small_convnet(len(source.class_names), SIZE, seed=1000 * (seed + 1) + student).to(device)
                teacher = observer.module if kind == "soft" else None
                train_student(
                    pictures, targets, net, teacher, replace(STUDENT, seed=student),
                    normalization=observer.normalization,
                )  # fmt: skip
                top1 = accuracy(net.eval(), images, labels, normalization=observer.normalization)
                scores.append(round(100 * top1, 2))
            rows.append(Row(f"{IPC} a class, {name}", f"{kind} labels", tuple(scores)))
    return rows


def _random_subset(source: Source, seed: int) -> tuple[Tensor, Tensor]:
    pictures, labels = whole_images(source, SIZE, 10**6)
    chosen = []
    for label in range(len(source.class_names)):
        rows = torch.nonzero(labels == label)[:, 0]
        order = torch.from_numpy(seeds.permutation(seed, "random subset", label, len(rows)))
        chosen.append(rows[order[:IPC]])
    index = torch.cat(chosen)
    return pictures[index], labels[index]


def _summary(rows: list[Row], observer_top1: float) -> dict[str, object]:
    return {
        "observer_top1": round(observer_top1, 2),
        "students": [{"images": r.images, "labels": r.labels, "top1": list(r.accuracies)} for r in rows],
    }
