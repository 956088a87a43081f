"""Reading stored soft labels a training step against torch.load of a file per batch, and its share of a step.

taskset -c 0 pytest benchmarks/train/bench_labels.py --benchmark-enable --bench-size full
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.case import cpu_clock
from benchmarks.records import Labels
from ddfast.bench.floor import Work
from ddfast.bench.machine import package
from ddfast.bench.measured import Check
from ddfast.nets import ConvNet
from ddfast.ops import soft_label_loss
from ddfast.store import LabelStore, TopKLabels
from ddfast.train.replay import Replay
from ddfast.train.views import ViewConfig

CLASSES, BATCH, K, EPOCHS = 1000, 100, 10, 2
SAMPLES = {"smoke": 500, "medium": 2000, "full": 10_000}  # ImageNet-1K has 10,000 at 10 images a class
SHARE = 0.02  # of a training step that reading labels may take
pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass
class Stored:
    """The same top-10 labels as ddfast stores them, and as files of a batch: top-10 tensors, and FKD's dense ones."""

    labels: LabelStore
    replay: Replay
    folder: Path
    last: tuple[int, int] = (0, 0)

    def next_batch(self) -> tuple[int, int]:
        """Epoch and step, one after the other, so that no reader sees the same batch twice in a row."""
        epoch, step = self.last
        step += 1
        self.last = (epoch, step) if step < self.replay.steps else ((epoch + 1) % EPOCHS, 0)
        return self.last

    def read(self, *, dense: bool) -> tuple[tuple[int, int], Any]:
        epoch, step = self.next_batch()
        index = self.replay.index(epoch, step)
        return (epoch, step), self.labels.dense(epoch, index) if dense else self.labels.read(epoch, index)

    def load(self, kind: str) -> tuple[tuple[int, int], Any]:
        epoch, step = self.next_batch()
        content = torch.load(self.folder / kind / f"epoch_{epoch}" / f"batch_{step}.tar", weights_only=True)
        return (epoch, step), content[-1] if kind == "fkd" else TopKLabels(*content)


def _logits(samples: int, epoch: int) -> Tensor:
    return torch.randn(samples, CLASSES, generator=torch.Generator().manual_seed(epoch)) * 3


@pytest.fixture(scope="module")
def stored(bench_size: str, tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Labels of two epochs, written all three ways; the page cache holds them."""
    folder, samples = tmp_path_factory.mktemp("labels"), SAMPLES[bench_size]
    labels = LabelStore.create(
        folder / "store", samples=samples, classes=CLASSES, epochs=EPOCHS, kind="topk", k=K,
        fingerprint={"set": "benchmark", "view": {}},
    )  # fmt: skip
    replay = Replay(ViewConfig((32, 32)), (32, 32), samples, 0, BATCH)
    for epoch in range(EPOCHS):
        logits = _logits(samples, epoch)
        labels.write(epoch, range(samples), logits)
        for kind in ("topk", "fkd"):
            (folder / kind / f"epoch_{epoch}").mkdir(parents=True)
        for step in range(replay.steps):
            index = replay.index(epoch, step)
            count, name = len(index), f"epoch_{epoch}/batch_{step}.tar"
            torch.save(list(labels.read(epoch, index)), folder / "topk" / name)
            views = [torch.rand(count, 4), torch.rand(count) < 0.5, torch.randperm(count), 0.5, [0, 0, 16, 16]]
            torch.save([*views, logits[index].half()], folder / "fkd" / name)
    return Stored(labels, replay, folder)


READERS: dict[str, Callable[[Stored], Any]] = {
    "ddfast": lambda stored: stored.read(dense=False),
    "ddfast-dense": lambda stored: stored.read(dense=True),
    "torch.load-topk": lambda stored: stored.load("topk"),
    "torch.load-fkd": lambda stored: stored.load("fkd"),
}


@pytest.mark.parametrize("name", READERS)
def test_reading_a_batch(case: Any, stored: Stored, name: str) -> None:
    def check(out: tuple[tuple[int, int], Any]) -> Check:
        (epoch, step), labels = out
        truth = _logits(stored.labels.layout.samples, epoch)[stored.replay.index(epoch, step)]
        values, classes = truth.topk(K, 1)
        if isinstance(labels, Tensor):
            return Check("largest logits", float((labels.float().gather(1, classes) - values).abs().max()), 0.01)
        wrong = float("inf") if not torch.equal(labels.indices, classes) else 0.0
        return Check("largest logits", float((labels.values.float() - values).abs().max()) + wrong, 0.01)

    ours = name.startswith("ddfast")
    case(
        lambda: READERS[name](stored),
        labels=Labels(
            "labels of a training step", name, "labels", f"{BATCH} top-{K} labels of {CLASSES} classes", "float16",
            "numpy" if ours else "torch", None if ours else package("torch"),
        ),
        work=Work(BATCH, "label", float(BATCH * (stored.labels.layout.row_bytes + 2 * K + 8 * K + 2))),
        check=check,
        ddfast=None if ours else lambda: READERS["ddfast"](stored),
    )  # fmt: skip


def test_share_of_a_training_step(case: Any, stored: Stored, report_line: Callable[[str], None]) -> None:
    """Reading against forward, loss and backward of the smallest network with 1,000 outputs that RDED trains."""
    net = ConvNet(3, CLASSES, 32)
    pictures = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)

    def step() -> Tensor:
        net.zero_grad(set_to_none=True)
        loss = soft_label_loss(net(pictures), stored.read(dense=False)[1], temperature=20.0)
        loss.backward()
        return loss.detach()

    group, shape = "labels in a training step of conv3", f"batch {BATCH} of 32 x 32, {CLASSES} classes"
    work = Work(BATCH, "image", float(BATCH * stored.labels.layout.row_bytes))
    whole = case(
        step,
        labels=Labels(group, "step", "labels", shape, "float32", "torch"),
        work=work,
        check=lambda loss: Check("finite loss", 0.0 if bool(torch.isfinite(loss)) else 1.0, 0.5),
        rounds=5,
    )
    if whole is None:
        return
    reads = 200
    start = cpu_clock()
    for _ in range(reads):
        stored.read(dense=False)
    share = (cpu_clock() - start) / reads / whole.seconds
    report_line(f"reading labels: {100 * share:.3f} % of a conv3 training step (allowed {100 * SHARE:.0f} %)")
    assert share < SHARE
