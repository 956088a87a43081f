"""timm's networks as observers, as teachers of soft labels and as students."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import ddfast
from ddfast.evaluation.students import build_student
from ddfast.nets import load_observer
from ddfast.store import DistilledSet
from ddfast.train import StudentConfig, train_student
from ddfast.train.relabel import relabel, view_of

timm = pytest.importorskip("timm", reason="needs timm (extra timm)")
NAME = "resnet10t"


def stripes(per_class: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Upright and lying stripes in noise: uint8 [N, side, side, 3]."""
    generator = torch.Generator().manual_seed(0)
    wave = (torch.arange(side) // 4 % 2 * 120).float()
    patterns = torch.stack([wave.expand(side, side), wave[:, None].expand(side, side)])
    labels = torch.arange(2).repeat_interleave(per_class)
    noise = 100 * torch.rand(2 * per_class, side, side, 3, generator=generator)
    return (patterns[labels][..., None] + noise).to(torch.uint8), labels


def test_observer_by_name_and_as_module(tmp_path: Path) -> None:
    images, labels = stripes(12)
    settings = {"ipc": 2, "factor": 1, "size": 32, "mipc": 8, "num_crop": 2, "engine": "torch", "quiet": True}
    named = load_observer(f"timm:{NAME}", num_classes=2, input_size=32, random_weights=True)
    made = ddfast.distill("rded", (images.numpy(), labels.numpy()), observer=named, out=tmp_path / "named", **settings)
    assert made.counts == [2, 2]
    assert made.manifest["observer"]["name"] == f"timm:{NAME}"
    torch.manual_seed(0)
    net = timm.create_model(NAME, num_classes=2)
    given = load_observer(net, num_classes=2, input_size=32, random_weights=True)
    made = ddfast.distill("rded", (images.numpy(), labels.numpy()), observer=given, format="png", **settings)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (given.normalization.mean, given.normalization.std))
    with torch.no_grad():
        logits = net.eval()((made.images.permute(0, 3, 1, 2) / 255 - mean) / std)
    losses = torch.nn.functional.cross_entropy(logits, made.labels, reduction="none").tolist()
    scores = [entry["cells"][0]["score"] for entry in made.manifest["images"]]
    assert scores == pytest.approx(losses, rel=0.05, abs=0.02)  # pixels are rounded once the crop is chosen


def test_teacher_and_student(tmp_path: Path) -> None:
    images, labels = stripes(8)
    one = DistilledSet(images, labels, ("upright", "lying"))
    torch.manual_seed(0)
    teacher = load_observer(timm.create_model(NAME, num_classes=2), num_classes=2, input_size=32)
    store = relabel(one, [teacher], tmp_path, view=view_of(one), epochs=1, batch_size=8, progress="quiet")
    assert store.complete().all()
    assert torch.isfinite(store.dense(0, range(16))).all()
    student = build_student(f"timm:{NAME}", 2, 32, seed=0)
    before = [p.clone() for p in student.parameters()]
    report = train_student(images, labels, student, None, StudentConfig(epochs=3, batch_size=8, bn_twice=False))
    assert all(torch.isfinite(torch.tensor(report.losses)))
    assert any(not torch.equal(a, b) for a, b in zip(before, student.parameters(), strict=True))
    same = build_student(f"timm:{NAME}", 2, 32, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(before, same.parameters(), strict=True))
