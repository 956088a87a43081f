"""Training spaces: there, back, and in front of a student."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ddfast.data.space import CIFAR, Space
from ddfast.train.augment import normalize


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (60, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("zca", [True, False])
def test_there_and_back(images: Tensor, zca: bool) -> None:
    space = Space.of("cifar10", images, zca=zca)
    x = space.apply(images)
    assert x.shape == (60, 3, 4, 4)
    assert torch.equal(space.invert(x), images)
    if not zca:
        torch.testing.assert_close(x, normalize(images, CIFAR))


@pytest.mark.parametrize("zca", [True, False])
def test_a_student_behind_it_takes_normalised_pictures(images: Tensor, zca: bool) -> None:
    space = Space.of("cifar10", images, zca=zca)
    student = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    seen = space.before(student)(normalize(images, CIFAR).contiguous())
    torch.testing.assert_close(seen, student(space.apply(images)), rtol=1e-4, atol=1e-4)


def test_constants_by_name(images: Tensor) -> None:
    assert Space.of("cifar100", images, zca=False).normalization == CIFAR
    assert Space.of("tiny", images, zca=False).normalization.mean == (0.485, 0.456, 0.406)
