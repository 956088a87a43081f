from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from ddfast._types import IMAGENET
from ddfast.nets.basic_resnet import BasicResNet
from ddfast.nets.convnet import ConvNet
from ddfast.train import StudentConfig, train_student
from ddfast.train.augment import normalize
from ddfast.train.cutmix import apply_cutmix, draw_cutmix
from ddfast.train.idc_augment import STUDENT, apply_idc, draw_idc
from ddfast.train.objective import Batch
from ddfast.train.optimizers import make_optimizer, step_rate
from ddfast.train.parity import train_like_rded
from ddfast.train.presets import PRESETS, Case, dsa_preset, preset, rded_batch
from ddfast.train.student import student_loss

SIDE = 16


def pictures(count: int = 10) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


def conv(seed: int) -> ConvNet:
    torch.manual_seed(seed)
    return ConvNet(2, 5, SIDE, width=8)


class ShuffleStrips:
    """Vertical strips, then horizontal strips, in random order."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        for axis in (2, 1):
            parts = list(torch.chunk(image, self.factor, axis))
            random.shuffle(parts)
            image = torch.cat(parts, axis)
        return image


class Pictures(Dataset):
    def __init__(self, images: torch.Tensor, factor: int) -> None:
        self.images = images.permute(0, 3, 1, 2)
        self.transform = transforms.Compose([
            ShuffleStrips(factor), transforms.RandomResizedCrop(SIDE, (1 / factor, 1.0), antialias=True),
            transforms.RandomHorizontalFlip(), transforms.Normalize(IMAGENET.mean, IMAGENET.std),
        ])  # fmt: skip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.images[index].float() / 255)


def transcribed(images: torch.Tensor, student: nn.Module, teacher: nn.Module, factor: int, epochs: int) -> list[float]:
    """The program's training on one process: loader, CutMix in place, throw-away forward, AdamW, half a cosine."""
    random.seed(7), np.random.seed(7), torch.manual_seed(7)  # noqa: NPY002
    loader = DataLoader(Pictures(images, factor), batch_size=4, shuffle=True)
    named = list(student.named_parameters())
    heavy = [p for n, p in named if "weight" in n and p.dim() > 1]
    light = [p for n, p in named if not ("weight" in n and p.dim() > 1)]
    optimizer = torch.optim.AdamW([{"params": light, "weight_decay": 0.0}, {"params": heavy}], 2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda e: 0.5 * (1 + math.cos(math.pi * e / epochs / 2)))
    losses = []
    student.train()
    for _ in range(epochs):
        total = 0.0
        for x in loader:
            partner = torch.randperm(len(x))
            lam = np.random.beta(1.0, 1.0)  # noqa: NPY002
            side = int(SIDE * np.sqrt(1.0 - lam))
            a, b = np.random.randint(SIDE), np.random.randint(SIDE)  # noqa: NPY002
            a1, a2, b1, b2 = (int(np.clip(v, 0, SIDE)) for v in
                              (a - side // 2, a + side // 2, b - side // 2, b + side // 2))  # fmt: skip
            x[:, :, a1:a2, b1:b2] = x[partner, :, a1:a2, b1:b2]
            with torch.no_grad():
                student(x)
                soft = F.softmax(teacher(x) / 20, dim=1)
            loss = nn.KLDivLoss(reduction="batchmean")(F.log_softmax(student(x) / 20, dim=1), soft)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        rate.step()
        losses.append(total / len(loader))
    return losses


@pytest.mark.parametrize("factor", [1, 2])
def test_parity_repeats_the_program_draw_by_draw(factor: int) -> None:
    images, teacher = pictures(), conv(1).eval()
    ours, theirs = conv(2), conv(2)
    expected = transcribed(images, theirs, teacher, factor, 3)
    case = Case("conv2", 5, 2, SIDE, factor)
    config = preset("rded", case, epochs=3, batch_size=4, lr=2e-3, seed=7, parity=True)
    labels = torch.zeros(len(images), dtype=torch.int64)
    report = train_student(images, labels, ours, teacher, config)
    assert report.losses == pytest.approx(expected, rel=1e-5)
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6, msg=name)
    assert ours.layers.norm[0].num_batches_tracked == 2 * 3 * 3
    with pytest.raises(ValueError, match="needs a teacher"):
        train_student(images, labels, ours, None, config)
    with pytest.raises(ValueError, match="RDED's recipe"):
        train_like_rded(images, ours, teacher, replace(config, schedule="cosine"))


def test_parity_and_the_fast_recipe_end_alike() -> None:
    """Other draws, the same law: after enough steps the soft losses of the two agree."""
    images, teacher = pictures(40), conv(1).eval()
    config = StudentConfig(epochs=30, batch_size=10, lr=5e-3, factor=2, seed=1)
    slow, fast = conv(2), conv(2)
    one = train_like_rded(images, slow, teacher, config)
    two = train_student(images, torch.zeros(40, dtype=torch.int64), fast, teacher, config)
    assert one.losses[0] > 3 * one.losses[-1]
    assert sum(two.losses[-5:]) == pytest.approx(sum(one.losses[-5:]), rel=0.25)


@pytest.mark.parametrize(
    ("case", "batch", "rate"),
    [
        (Case("conv3", 10, 10), 50, 1e-3),
        (Case("resnet18_modified", 10, 1), 10, 1e-3),
        (Case("conv3", 10, 50), 100, 1e-3),
        (Case("conv3", 100, 10), 25, 2e-3),
        (Case("resnet18_modified", 100, 10), 100, 1e-3),
        (Case("conv4", 200, 50, 64), 100, 1e-3),
        (Case("resnet18", 1000, 10, 224, 2), 100, 1e-3),
        (Case("resnet18", 1000, 50, 224, 2), 200, 1e-3),
        (Case("mobilenet_v2", 1000, 1, 224, 2), 20, 2.5e-3),
        (Case("vit_b_16", 1000, 10, 224, 2), 100, 1e-4),
        (Case("conv5_instance", 10, 20, 128, 2), 50, 1e-3),
        (Case("resnet10_modified_instance", 10, 2), 10, 1e-3),
    ],
)
def test_rded_batches_and_rates(case: Case, batch: int, rate: float) -> None:
    config = preset("rded", case)
    assert (rded_batch(case), config.batch_size, config.lr) == (batch, batch, rate)
    assert (config.epochs, config.temperature, config.schedule, config.optimizer) == (300, 20.0, "half_cosine", "adamw")
    assert config.factor == case.factor
    assert step_rate(config, 299, 0, 10) == pytest.approx(rate * 0.5 * (1 + math.cos(math.pi * 299 / 600)))


def test_dsa_drops_the_rate_where_the_programs_do() -> None:
    config = preset("dsa", Case("conv3_instance", 10, 10))
    assert (config.epochs, config.batch_size, config.nesterov, config.decay_all) == (1001, 100, False, True)
    rates = [step_rate(config, epoch, 0, 1) for epoch in range(config.epochs)]
    assert rates[:502] == [0.01] * 502  # epochs 0 .. 501: the drop comes after epoch E // 2 + 1
    assert rates[502:] == pytest.approx([0.001] * 499)
    net = conv(0)
    decayed, plain = make_optimizer(net, config).param_groups
    assert len(decayed["params"]) == len(list(net.parameters()))
    assert not plain["params"]
    assert dsa_preset(Case("conv3", 10, 50), epochs=300, lr=0.02).milestones == (152,)


def test_idc_drops_the_rate_twice_by_five() -> None:
    config = preset("idc", Case("conv3", 10, 40))
    rates = [step_rate(config, epoch, 0, 1) for epoch in range(config.epochs)]
    assert rates == pytest.approx([0.01] * 666 + [0.002] * 167 + [0.0004] * 167)
    assert (config.batch_size, config.cutmix_share) == (64, 0.5)
    with pytest.raises(ValueError, match="drop: got 0"):
        preset("idc", Case("conv3", 10, 40), drop=0.0)
    with pytest.raises(ValueError, match=r"cutmix_share: got 0.5 with cutmix_alpha 1.0"):
        preset("idc", Case("conv3", 10, 40), cutmix_alpha=1.0)


def test_idcs_students_get_its_augmentation_then_cutmix() -> None:
    config = preset("idc", Case("conv2", 5, 2, SIDE))
    images, labels = pictures(), torch.arange(10) % 5
    loss = student_loss(images, labels, None, config)
    plain = normalize(images, IMAGENET)
    index, mixed = torch.arange(10), set()
    for epoch in range(12):
        x, own, partners, share = loss.prepare(Batch(index, epoch, 0))
        want = apply_idc(plain, draw_idc(STUDENT, 10, (SIDE, SIDE), seed=0, epoch=epoch))
        mix = draw_cutmix(10, (SIDE, SIDE), seed=0, epoch=epoch, probability=0.5)
        mixed.add(mix is not None)
        partner = index if mix is None else mix.partner
        torch.testing.assert_close(x, want if mix is None else apply_cutmix(want, mix), rtol=1e-4, atol=1e-4)
        assert torch.equal(own, labels)
        assert torch.equal(partners, labels[partner])
        assert float(share) == pytest.approx(1 if mix is None else mix.share)
    assert mixed == {True, False}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("student", ["conv2", "conv2_instance", "resnet10", "resnet10_instance"])
def test_every_recipe_trains_the_family(name: str, student: str) -> None:
    norm = "instance" if student.endswith("instance") else "batch"
    torch.manual_seed(0)
    net = ConvNet(2, 5, SIDE, 8, norm) if student.startswith("conv") else BasicResNet(10, 5, norm, "small")
    config = preset(
        name, Case(student, 5, 2, SIDE, 2), epochs=2, milestones=(1,) if name in ("dc", "dsa", "idc") else ()
    )
    labels = torch.arange(10) % 5
    report = train_student(pictures(), labels, net, conv(1).eval() if name in ("rded", "fkd") else None, config)
    assert report.steps == 2 * -(-10 // config.batch_size)
    assert all(math.isfinite(loss) for loss in report.losses)


def test_unknown_recipes_and_students_are_named() -> None:
    with pytest.raises(ValueError, match="preset: got 'idd'"):
        preset("idd", Case("conv3", 10, 10))
    with pytest.raises(ValueError, match="student: got 'mixer'"):
        preset("rded", Case("mixer", 10, 10))
    assert preset("rded", Case("mixer", 10, 10), lr=1e-4).lr == 1e-4
    assert preset("hard_label", Case("mixer", 10, 10)).optimizer == "sgd"
    with pytest.raises(ValueError, match="ipc: got 0"):
        Case("conv3", 10, 0)
