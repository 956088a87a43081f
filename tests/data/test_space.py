"""Training spaces: there, back, and in front of a student."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ddfast._types import IMAGENET
from ddfast.data.space import CIFAR, Space, known_normalization, measured_normalization
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
    assert Space.of("tiny-imagenet", images, zca=False).normalization.mean == (0.485, 0.456, 0.406)
    for name, mean in (("mnist5k", 0.1307), ("Fashion-MNIST", 0.2861), ("fmnist", 0.2861), ("SVHN:test", 0.4377)):
        known = known_normalization(name)
        assert known is not None
        assert known.mean[0] == mean
    assert known_normalization("train", ("n01440764", "n02102040")) == IMAGENET
    assert known_normalization("train", ("n01440764", "cat")) is None
    assert known_normalization("my_folder") is None
    assert Space.of("my_folder", images, zca=False).normalization == IMAGENET


@pytest.mark.parametrize(
    ("names", "mean"),
    [
        (("cifar10", "CIFAR100:test", "cifar-10-batches-bin", "cifar_100", "cifar10-subset", "CIFAR-10"), 0.4914),
        (("mnist", "MNIST:train", "mnist5k:test", "mnist_28"), 0.1307),
        (("fashionmnist", "Fashion_MNIST:test", "FashionMNIST"), 0.2861),
        (("tiny-imagenet", "tiny-imagenet-200:val", "TinyImageNet200", "imagenet:train", "imagenet64:val",
          "imagenet-1k", "ImageNet_1k", "imagenet20", "imagenetv2", "imagenet32x32", "imagenet64x64:val",
          "imagenet128x128", "imagenettrain", "imagenetval", "imagenette2-160:train", "imagewoof"), 0.485),
        (("tiny_cats", "tiny", "tinytown", "fashion_photos", "cifarlike", "mnistish", "imagenetics", "imagenettrainer",
          "imagenet32x", "my_cifar10", ""),
         None),
    ],
)  # fmt: skip
def test_only_whole_names_are_known(names: tuple[str, ...], mean: float | None) -> None:
    for name in names:
        known = known_normalization(name)
        assert (known and known.mean[0]) == mean, name


def test_constants_of_the_pictures() -> None:
    images = torch.randint(0, 256, (5000, 3, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    images[..., 1] //= 2
    images[..., 2] = 255
    found = Space.of("my_folder", images, zca=False, measured=True).normalization
    values = images.reshape(-1, 3).double() / 255
    assert found.mean == pytest.approx(values.mean(0).tolist(), abs=5.1e-5)
    assert found.std[:2] == pytest.approx(values.std(0, correction=0)[:2].tolist(), abs=5.1e-5)
    assert found.std[2] == round(1 / 255, 4)
    with pytest.raises(ValueError, match=r"images: got shape \[0, 3, 4, 3\], expected at least one picture"):
        measured_normalization(images[:0])
