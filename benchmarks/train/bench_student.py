"""Student training, one core: an epoch of RDED's recipe against plain torch, and five students together.

    pytest benchmarks/train/bench_student.py --benchmark-enable --bench-size full

``torch`` does the same maths (views by plain tensor operations, teacher, KL, AdamW, no second forward) in torch's
default memory format. ``rded`` is the paper's program: one picture augmented after the other, and a throw-away forward.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.records import Labels
from ddfast._types import IMAGENET
from ddfast.bench.floor import Work
from ddfast.bench.measured import Check
from ddfast.nets.convnet import ConvNet
from ddfast.ops._registry import use_backend
from ddfast.train import StudentConfig, augment, train_student
from ddfast.train.many import train_many
from ddfast.train.presets import Case, preset
from ddfast.train.student import batch_norm_twice, view_config
from ddfast.train.views import draw_views, epoch_order

SIZE, CLASSES, MODELS, WIDTH = 32, 10, 5, 32
IPC = {"smoke": 5, "medium": 10, "full": 10}
SIDES = {"conv3": (32, 1), "conv5": (128, 2)}
pytestmark = pytest.mark.usefixtures("one_thread")


@functools.cache
def _set(count: int, side: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8, generator=generator), torch.arange(
        count
    ) % 10


@functools.cache
def _net(seed: int, name: str, width: int, norm: str) -> nn.Module:
    torch.manual_seed(seed)
    return ConvNet(int(name[4]), CLASSES, SIDES[name][0], width, norm)


def _recipe(name: str, ipc: int, **changes: Any) -> StudentConfig:
    side, factor = SIDES[name]
    return preset("rded", Case(name, CLASSES, ipc, side, factor), epochs=1, **changes)


def _flops(net: nn.Module, side: int, images: int, forwards: float) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, side, side))
    return float(counter.get_total_flops()) * images * forwards


def epoch_of_ddfast(name: str, ipc: int, norm: str, **changes: Any) -> float:
    """Mean loss of the epoch."""
    images, labels = _set(CLASSES * ipc, SIDES[name][0])
    student, teacher = copy.deepcopy(_net(1, name, WIDTH, norm)), copy.deepcopy(_net(2, name, WIDTH, norm)).eval()
    return train_student(images, labels, student, teacher, _recipe(name, ipc, **changes)).losses[0]


def epoch_of_torch(name: str, ipc: int, norm: str) -> float:
    """The same maths, as one would write it with torch alone."""
    config = _recipe(name, ipc)
    images, _ = _set(CLASSES * ipc, SIDES[name][0])
    student, teacher = copy.deepcopy(_net(1, name, WIDTH, norm)), copy.deepcopy(_net(2, name, WIDTH, norm)).eval()
    size = (images.shape[1], images.shape[2])
    view = view_config(config, size)
    heavy = [p for p in student.parameters() if p.ndim > 1]
    light = [p for p in student.parameters() if p.ndim <= 1]
    groups = [{"params": heavy, "weight_decay": config.weight_decay}, {"params": light, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    losses = []
    student.train()
    with batch_norm_twice(student, True), use_backend("reference"):
        for step, index in enumerate(epoch_order(config.seed, 0, len(images)).split(config.batch_size)):
            x = augment.render(images, draw_views(view, size, config.seed, 0, step, index), view, IMAGENET).contiguous()
            with torch.no_grad():
                target = F.softmax(teacher(x) / config.temperature, dim=1)
            loss = F.kl_div(F.log_softmax(student(x) / config.temperature, dim=1), target, reduction="batchmean")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return sum(losses) / len(losses)


def epoch_of_rded(name: str, ipc: int, norm: str) -> float:
    """The paper's program."""
    return epoch_of_ddfast(name, ipc, norm, parity=True)


BASELINES: dict[str, tuple[Callable[[str, int, str], float], float, str]] = {
    "torch": (epoch_of_torch, 1e-3, "loss of the epoch against torch, relative"),
    "rded": (epoch_of_rded, 0.3, "loss of the epoch against the paper's program, relative: other draws"),
}


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("student", SIDES)
@pytest.mark.parametrize("name", ["ddfast", *BASELINES])
def test_epoch(case: Any, bench_size: str, student: str, norm: str, name: str) -> None:
    side = SIDES[student][0]
    ipc = 2 if bench_size == "smoke" and side > SIZE else IPC[bench_size]
    count = CLASSES * ipc
    run, bound, what = BASELINES["torch" if name == "ddfast" else name]
    truth = epoch_of_ddfast(student, ipc, norm) if name != "ddfast" else run(student, ipc, norm)
    chosen = epoch_of_ddfast if name == "ddfast" else run
    net = _net(1, student, WIDTH, norm)
    case(
        lambda: chosen(student, ipc, norm),
        labels=Labels(
            f"student epoch {student} {norm} norm", name, "train_student",
            f"ConvNet-{student[4]} of width {WIDTH}, {count} pictures of {side}", "fp32", "torch",
            None if name == "ddfast" else name,
        ),
        work=Work(count, "image", 3.0 * count * side * side * 5, _flops(net, side, count, 4.0)),  # teacher 1, student 3
        check=lambda loss: Check(what, abs(loss / truth - 1), bound),
        ddfast=None if name == "ddfast" else lambda: epoch_of_ddfast(student, ipc, norm),
    )  # fmt: skip


def five(engine: str, ipc: int, norm: str) -> float:
    """Mean loss of an epoch of five students of five seeds."""
    images, labels = _set(CLASSES * ipc, SIZE)
    students = [copy.deepcopy(_net(seed, "conv3", WIDTH, norm)) for seed in range(MODELS)]
    teacher = copy.deepcopy(_net(9, "conv3", WIDTH, norm)).eval()
    configs = [_recipe("conv3", ipc, seed=seed) for seed in range(MODELS)]
    reports = train_many(images, labels, students, configs, teacher, engine=engine)
    return math.fsum(report.losses[0] for report in reports) / MODELS


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("engine", ["auto", "grouped", "vmap"])
def test_five_students(case: Any, bench_size: str, engine: str, norm: str) -> None:
    """``over ddfast`` of the engines is their time over one student after the other (`auto` on a CPU)."""
    ipc = IPC[bench_size]
    count = MODELS * CLASSES * ipc
    flops = _flops(_net(1, "conv3", WIDTH, norm), SIZE, count, 4.0)
    truth = five("turns", ipc, norm)
    case(
        lambda: five(engine, ipc, norm),
        labels=Labels(
            f"five students {norm} norm", f"ddfast-{engine}", "train_many",
            f"{MODELS} ConvNet-3 of width {WIDTH}, {CLASSES * ipc} pictures of {SIZE}", "fp32", engine,
            None if engine == "auto" else engine,
        ),
        work=Work(count, "image", 3.0 * count * SIZE * SIZE * 5, flops),
        check=lambda loss: Check("mean loss against one after the other, relative", abs(loss / truth - 1), 1e-3),
        ddfast=None if engine == "auto" else lambda: five("turns", ipc, norm),
    )  # fmt: skip
