from __future__ import annotations

import pytest
import torch
from torch import nn

from ddfast._types import IMAGENET, Normalization
from ddfast.train import StudentConfig, accuracy, predict, train_student
from ddfast.train.student import soft_label_loss


def net(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    stem = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes))


def quadrants(count: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % 4
    images = torch.randint(0, 200, (count, 8, 8, 3), dtype=torch.uint8, generator=generator)
    for i, label in enumerate(labels.tolist()):
        images[i, :, :, label % 3] //= 1 + label
    return images, labels


def test_soft_label_loss_is_the_kl_of_the_tempered_distributions() -> None:
    student, teacher = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    p, q = torch.softmax(teacher / 20, 1), torch.softmax(student / 20, 1)
    truth = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(soft_label_loss(student, teacher, 20.0), truth)
    assert soft_label_loss(teacher, teacher, 20.0).abs() < 1e-12
    with pytest.raises(ValueError, match=r"teacher: gave logits \[5, 6\]"):
        soft_label_loss(student, teacher[:, :6], 20.0)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_student_learns_from_labels_and_from_a_teacher(factor: int) -> None:
    images, labels = quadrants()
    config = StudentConfig(epochs=25, batch_size=40, lr=0.02, factor=factor)
    teacher = net(seed=1)
    hard = train_student(images, labels, teacher, None, config)
    assert accuracy(teacher, images, labels) > 0.8
    teacher.eval()
    student = net(seed=3)
    before = (predict(student, images).argmax(1) == predict(teacher, images).argmax(1)).float().mean()
    soft = train_student(images, labels, student, teacher, config)
    after = (predict(student, images).argmax(1) == predict(teacher, images).argmax(1)).float().mean()
    assert hard.losses[-1] < hard.losses[0]
    assert soft.losses[-1] < 0.5 * soft.losses[0]
    assert after > max(0.6, float(before))


def test_teacher_sees_the_same_batch_in_its_own_normalization() -> None:
    images, labels = quadrants(8)
    seen: dict[str, torch.Tensor] = {}

    class Spy(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name, self.scale = name, nn.Parameter(torch.ones(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen[self.name] = x.detach()
            return x.mean((1, 2, 3))[:, None] * self.scale

    other = Normalization((0.5, 0.5, 0.5), (0.25, 0.5, 1.0))
    config = StudentConfig(epochs=1, batch_size=8, factor=2)
    train_student(images, labels, Spy("student"), Spy("teacher"), config, teacher_normalization=other)
    mean, std, mean_t, std_t = (
        torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET.mean, IMAGENET.std, other.mean, other.std)
    )
    torch.testing.assert_close(seen["teacher"] * std_t + mean_t, seen["student"] * std + mean, rtol=1e-4, atol=1e-5)


def test_batch_norm_twice_equals_two_updates_with_the_same_batch() -> None:
    images, labels = quadrants(8)
    config = StudentConfig(epochs=1, batch_size=8, cutmix_alpha=0.0, flip=False, lr=1e-9)
    student, twin = net(), net()
    train_student(images, labels, student, None, config)
    x = ((images.float() / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)).permute(0, 3, 1, 2)
    twin.train()
    for _ in range(2):
        twin(x)
    torch.testing.assert_close(student[1].running_mean, twin[1].running_mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(student[1].running_var, twin[1].running_var, rtol=1e-4, atol=1e-5)
    assert student[1].momentum == 0.1


def test_seeded_and_wrong_settings_named() -> None:
    images, labels = quadrants(20)
    weights = []
    for _ in range(2):
        student = net()
        train_student(images, labels, student, None, StudentConfig(epochs=2, batch_size=7, factor=2, seed=4))
        weights.append(student[0].weight.detach().clone())
    assert torch.equal(*weights)
    with pytest.raises(ValueError, match="temperature: got 0"):
        StudentConfig(temperature=0.0)
    with pytest.raises(ValueError, match="factor: got 0"):
        StudentConfig(factor=0)
