"""The demo: real digits distilled on any machine, and an honest look at what students learn from the result."""

from __future__ import annotations

import io
import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ddfast.data import Source, open_source
from ddfast.methods import RunOptions, distill
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.quick_observer import train_observer, whole_images
from ddfast.nets.observers import Observer
from ddfast.runs import RunError, atomic_write_bytes, seeds
from ddfast.runs.folder import make_folder
from ddfast.store import DistilledSet, contact_sheet_png
from ddfast.train import accuracy, train_student
from ddfast.train.demo_recipe import STUDENT, small_convnet

SIZE, IPC = 32, 10
STUDENTS = 3
LEARNED: dict[str, Any] = {"preset": "smoke", "ipc": 1, "iterations": 500, "eval_every": 500}  # by DM


@dataclass(frozen=True)
class Row:
    """Top-1 accuracies, in percent, of students trained on one set with one kind of labels."""

    images: str
    labels: str
    accuracies: tuple[float, ...]

    def text(self) -> str:
        return f"  {self.images:30s} {self.labels:14s} {mean(self.accuracies):6.2f} ± {stdev(self.accuracies):.2f} %"


def run_demo(out: Path, *, seed: int = 0, overwrite: bool = False, quiet: bool = False) -> list[Row]:
    """Distils MNIST-5k twice and trains students on the results and on random pictures of the same number.

    Trains a small observer on 4,000 digits, keeps by RDED (Sun et al., CVPR 2024) ten crops a class, learns by DM (Zhao
    and Bilen, WACV 2023) one image a class, then trains fresh students on both sets and on random subsets of the same
    sizes, by the same recipe (at ten a class also with the observer's soft labels), and tests them on 1,000 digits.
    Writes the sets (``distilled``, ``learned``), their contact sheet and ``results.json`` to ``out``; says on standard
    error how far it is, and prints its table.

    Raises:
        RunError: ``out`` holds an earlier demo and ``overwrite`` is not set, or it is a file.
        OSError: it cannot be made.
    """
    began = time.perf_counter()
    make_folder(out)
    if (out / "distilled").exists() and not overwrite:
        raise RunError(f"{out}: holds an earlier demo; give --overwrite, or another folder with --out")
    source, test = open_source("mnist5k"), open_source("mnist5k:test")
    config = RDEDConfig(ipc=IPC, factor=1, size=SIZE, seed=seed, observer="train:conv3")
    say = _nothing if quiet else _say
    say("1. observer")
    observer = train_observer("conv3", source, config, RunOptions(quiet=quiet))
    test_images, test_labels = whole_images(test, SIZE, 10**6)
    top1 = 100 * accuracy(observer.module, test_images, test_labels, normalization=observer.normalization)
    say(f"   tested on {len(test_labels)} other digits: {top1:.2f} %")
    say(f"2. RDED: {IPC} crops a class")
    common: dict[str, Any] = {"seed": seed, "overwrite": overwrite, "quiet": quiet}
    crops = distill("rded", source, observer=observer, out=out / "distilled", ipc=IPC, factor=1, size=SIZE, **common)
    say("3. DM: one learned image a class")
    learned = distill("dm", source, out=out / "learned", **LEARNED, **common)
    say(f"4. {STUDENTS} students on each set, and on as many random pictures")
    judge = _Judge(source, observer, test_images, test_labels, seed)
    rows = [
        *judge.rows("learned by DM", learned, ("hard",)),
        *judge.rows("crops by RDED", crops, ("hard", "soft")),
    ]
    atomic_write_bytes(out / "contact_sheet.png", _side_by_side(contact_sheet_png(each) for each in (crops, learned)))
    atomic_write_bytes(out / "results.json", json.dumps(_summary(rows, top1), indent=2).encode())
    whole = sum(source.count(c) for c in range(len(source.class_names)))
    print(f"\nTop-1 on {len(test_labels)} test digits, mean ± standard deviation over {STUDENTS} students:")
    print(f"  {f'all {whole} training digits':30s} {'hard':14s} {top1:6.2f} % (the observer)")
    print("\n".join(row.text() for row in rows))
    print(f"\n{out / 'contact_sheet.png'} shows both sets ({time.perf_counter() - began:.0f} s in all)")
    return rows


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _nothing(text: str) -> None:
    return None


@dataclass(frozen=True)
class _Judge:
    """Trains students on a set and on random pictures of the same number."""

    source: Source
    observer: Observer
    images: Tensor
    labels: Tensor
    seed: int

    def rows(self, name: str, distilled: DistilledSet, kinds: Sequence[str]) -> list[Row]:
        ipc = len(distilled.images) // len(self.source.class_names)
        sets = {name: (distilled.images, distilled.labels), "random pictures": self._random_subset(ipc)}
        return [
            Row(f"{ipc} a class, {each}", f"{kind} labels", self._students(*sets[each], kind == "soft"))
            for kind in kinds
            for each in sets
        ]

    def _students(self, pictures: Tensor, targets: Tensor, soft: bool) -> tuple[float, ...]:
        scores = []
        normalization = self.observer.normalization
        device = next(self.observer.module.parameters()).device
        for student in range(STUDENTS):
            net = small_convnet(len(self.source.class_names), SIZE, seed=1000 * (self.seed + 1) + student).to(device)
            teacher = self.observer.module if soft else None
            config = replace(STUDENT, seed=student)
            train_student(pictures, targets, net, teacher, config, normalization=normalization)
            top1 = accuracy(net.eval(), self.images, self.labels, normalization=normalization)
            scores.append(round(100 * top1, 2))
        return tuple(scores)

    def _random_subset(self, ipc: int) -> tuple[Tensor, Tensor]:
        pictures, labels = whole_images(self.source, SIZE, 10**6)
        chosen = []
        for label in range(len(self.source.class_names)):
            rows = torch.nonzero(labels == label)[:, 0]
            order = torch.from_numpy(seeds.permutation(self.seed, "random subset", label, len(rows)))
            chosen.append(rows[order[:ipc]])
        index = torch.cat(chosen)
        return pictures[index], labels[index]


def _side_by_side(sheets: Iterable[bytes]) -> bytes:
    pictures = [Image.open(io.BytesIO(sheet)).convert("RGB") for sheet in sheets]
    joined = Image.new("RGB", (sum(p.width for p in pictures), max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        joined.paste(picture, (left, 0))
        left += picture.width
    buffer = io.BytesIO()
    joined.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _summary(rows: list[Row], observer_top1: float) -> dict[str, object]:
    return {
        "observer_top1": round(observer_top1, 2),
        "students": [{"images": r.images, "labels": r.labels, "top1": list(r.accuracies)} for r in rows],
    }
