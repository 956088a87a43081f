"""Controls, storage, cost, students and test pictures, each alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ddfast._types import IMAGENET
from ddfast.data import open_source
from ddfast.evaluation.controls import random_subset
from ddfast.evaluation.cost import forward_flops, training_flops
from ddfast.evaluation.storage import measure, stored_bytes
from ddfast.evaluation.students import build_student, label_of, parse_students
from ddfast.evaluation.tasks import test_epochs as epochs_tested
from ddfast.evaluation.validation import (
    CACHE_FILE,
    Validation,
    confusion,
    open_validation,
    prepare,
    resized_side,
    write_cache,
)
from ddfast.nets import VGG11, AlexNet, ViT
from ddfast.nets.classes import match_classes
from ddfast.store import ImageFormat
from tests.evaluation.eval_case import NAMES, SIDE, small_set, source
from tests.methods.rded_case import write_pictures

PNG = ImageFormat("png")


def test_random_subset_at_equal_images_and_bytes() -> None:
    real = source(30, 1)
    same = random_subset(real, (0, 1, 2), SIDE, seed=3, image_format=PNG, counts=(4, 5, 6))
    assert torch.bincount(same.labels).tolist() == [4, 5, 6]
    every = {real.load(c, p).tobytes() for c in range(3) for p in range(30)}
    assert all(image.numpy().tobytes() in every for image in same.images)
    assert same.bytes == sum(stored_bytes(image.numpy(), PNG) for image in same.images)
    assert len({image.numpy().tobytes() for image in same.images}) == 15
    again = random_subset(real, (0, 1, 2), SIDE, seed=3, image_format=PNG, counts=(4, 5, 6))
    assert torch.equal(again.images, same.images)
    other = random_subset(real, (0, 1, 2), SIDE, seed=4, image_format=PNG, counts=(4, 5, 6))
    assert not torch.equal(other.images, same.images)
    budget = (5000.0, 2000.0, 3000.0)
    paid = random_subset(real, (0, 1, 2), SIDE, seed=3, image_format=PNG, budgets=budget)
    sizes = [stored_bytes(image.numpy(), PNG) for image in paid.images]
    assert paid.bytes == sum(sizes) <= sum(budget) < sum(sizes) + max(sizes)  # less than a picture is left
    first = sum(size for size, label in zip(sizes, paid.labels.tolist(), strict=True) if label == 0)
    assert first <= budget[0] < first + max(sizes)
    poor = random_subset(real, (0, 1, 2), SIDE, seed=3, image_format=PNG, budgets=(1.0, 1.0, 1.0))
    assert torch.bincount(poor.labels).tolist() == [1, 1, 1]  # a class is never empty
    assert torch.equal(paid.images[:4], same.images[:4])  # the same draw, cut elsewhere


def test_random_subset_is_compressed_like_the_set() -> None:
    real = source(5, 1)
    lossy = random_subset(real, (0, 1, 2), SIDE, seed=0, image_format=ImageFormat("jpeg", 30), counts=(2, 2, 2))
    plain = random_subset(real, (0, 1, 2), SIDE, seed=0, image_format=None, counts=(2, 2, 2))
    assert plain.bytes == 6 * SIDE * SIDE * 3
    assert not torch.equal(lossy.images, plain.images)
    with pytest.raises(ValueError, match="one of the two"):
        random_subset(real, (0,), SIDE, seed=0, image_format=None)


def test_storage_counts_labels_and_real_pictures(tmp_path: Path) -> None:
    folder = small_set(4).save(tmp_path / "set", lossless=True)
    from ddfast.store import load

    stored = measure(load(folder), source(20, 1), (0, 1, 2), label_bytes=600)
    on_disk = sum(path.stat().st_size for path in folder.glob("0*/*.png"))
    assert (stored.images, stored.labels, stored.total) == (on_disk, 600, on_disk + 600)
    assert sum(stored.budget) == pytest.approx(stored.total)
    shown = stored.as_json()
    assert shown["bits_per_class"] == pytest.approx(8 * stored.total / 3, abs=0.1)
    real = np.mean([stored_bytes(source(20, 1).load(c, p), PNG) for c in range(3) for p in range(20)])
    assert shown["ipc_equivalent"] == pytest.approx(stored.total / 3 / real, abs=2e-3)
    assert shown["original_image_bytes"] == SIDE * SIDE * 3
    assert measure(small_set(4), None).as_json()["ipc_equivalent"] is None


def test_flops_are_two_per_multiply_add() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 5))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert forward_flops(net, 8) == 2 * (3 * 8 * 9 * 64 + 8 * 64 * 5)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert net.training
    cost = training_flops(net, 8, 100, net)
    assert cost["student"] == 300 * cost["forward"]
    assert cost["total"] == 400 * cost["forward"]


def test_students_by_name() -> None:
    names = parse_students("ConvNet-3, convnet4,conv3,resnet18_modified_instance")
    assert names == ("conv3", "conv4", "resnet18_modified_instance")
    short = parse_students("ConvNetD3-IN,convnet3-bn,resnet10-in,resnet18_bn,ResNet18-modified-in,resnet10-gn,vgg11_bn")
    assert short == (
        "conv3_instance", "conv3", "resnet10_instance", "resnet18", "resnet18_modified_instance", "resnet10_group",
        "vgg11_bn",
    )  # fmt: skip
    for name in ("conv3_instance", "resnet10", "resnet18", "resnet18_modified", "resnet10_modified_instance"):
        first, again = (build_student(name, 5, 32, seed=1, width=8) for _ in range(2))
        assert first(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
        assert first.training
        assert all(p.requires_grad for p in first.parameters())
        batch = [m for m in first.modules() if isinstance(m, nn.BatchNorm2d)]
        assert (not batch) == name.endswith("instance")
    with pytest.raises(ValueError, match="instance norm leaves nothing; take resnet10_modified_instance"):
        build_student("resnet10_instance", 5, 32, seed=0)
    listed = parse_students("VGG11-IN,vgg-11_group,AlexNet-modified,ViT,vit_none,vgg11,alexnet,vit_b_16")
    assert listed == (
        "vgg11_instance", "vgg11_group", "alexnet_modified", "vit", "vit_none", "vgg11", "alexnet", "vit_b_16",
    )  # fmt: skip
    assert [label_of(name) for name in listed[2:4]] == ["AlexNet, small pictures", "ViT"]
    for name, kind in (("vgg11_instance", VGG11), ("alexnet_modified", AlexNet), ("vit_none", ViT)):
        with torch.device("meta"):
            assert isinstance(build_student(name, 5, 64, seed=0), kind)
    with pytest.raises(ValueError, match="resnet18_modified, each with _instance"):
        build_student("resnet9000", 5, 32, seed=0)
    with pytest.raises(ValueError, match="input_size"):
        build_student("conv6", 5, 32, seed=0)
    with pytest.raises(ValueError, match="students"):
        parse_students(" , ")


def test_our_resnet18_is_torchvisions() -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    theirs = resnet18(num_classes=4).eval()
    ours = build_student("resnet18", 4, 64, seed=0).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


def test_test_epochs_are_spread_and_end_with_the_last() -> None:
    assert epochs_tested(100, 5) == {20, 40, 60, 80, 100}
    assert epochs_tested(3, 5) == {1, 2, 3}
    assert max(epochs_tested(7, 3)) == 7


@pytest.mark.parametrize("shape", [(300, 400), (411, 257), (256, 256), (97, 500)])
@pytest.mark.parametrize("size", [224, 128, 64, 32])
def test_preparation_is_torchvisions_resize_and_centre_crop(shape: tuple[int, int], size: int) -> None:
    from torchvision.transforms import v2

    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    rule = v2.Compose([v2.Resize(resized_side(size), antialias=True), v2.CenterCrop(size)])
    expected = rule(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0)
    made = prepare(pixels, size, cropped=True)
    assert made.shape == (size, size, 3)
    assert int((made.int() - expected.int()).abs().max()) <= 1
    assert resized_side(224) == 256
    assert [resized_side(s) for s in (128, 64, 32)] == [144, 72, 32]


def test_arrays_that_fit_are_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(prepare(pixels, 32, cropped=False).numpy(), pixels)


def test_batches_skip_unreadable_pictures_and_equal_the_cache(tmp_path: Path) -> None:
    root = write_pictures(tmp_path / "val", 3, 5)
    (root / "00001" / "picture_002.jpg").write_bytes(b"no picture")
    validation = open_validation(open_source(root), ("00000", "00001", "00002"), 16, None)
    plain = list(validation.batches(4))
    threaded = list(validation.batches(4, workers=2))
    assert write_cache(validation, tmp_path, 1) == 1
    cached = list(Validation(validation.source, validation.targets, 16, cache=str(tmp_path)).batches(4))
    assert (tmp_path / CACHE_FILE).stat().st_size == 14 * 16 * 16 * 3
    for found in (plain, threaded, cached):
        assert sum(len(labels) for _, labels in found) == 14
        assert torch.equal(torch.cat([images for images, _ in found]), torch.cat([images for images, _ in plain]))
        assert torch.cat([labels for _, labels in found]).tolist() == [0] * 5 + [1] * 4 + [2] * 5


def test_confusion_counts_every_picture() -> None:
    class Colour(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * x.mean((2, 3))

    validation = open_validation(source(10, 5, names=("b", "a", "c")), ("b", "a", "c"), SIDE, 7)
    found = confusion(Colour(), validation, IMAGENET, 3)
    assert found.sum(1).tolist() == [7, 7, 7]
    assert int(found.diagonal().sum()) >= 20


def test_classes_are_matched_by_name() -> None:
    assert match_classes(NAMES, ("blue", "green", "red", "white"), "val") == (2, 1, 0)
    assert match_classes(("00000", "00001"), ("cat", "dog"), "val") == (0, 1)
    with pytest.raises(ValueError, match=r"has 2 classes .* the set has 3 and 1 of them are not among those: blue"):
        match_classes(NAMES, ("green", "red"), "validation x")
    with pytest.raises(ValueError, match="has 3 classes"):
        match_classes(("00000", "00001"), ("a", "b", "c"), "validation x")


def test_an_imagefolder_of_pngs_is_cropped_as_photographs_are(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "a" / "x.png")
    assert open_validation(open_source(tmp_path), ("a",), 32, None).cropped
    (tmp_path / "a" / "x.png").unlink()
    with pytest.warns(UserWarning, match="no pictures"), pytest.raises(ValueError, match="no pictures of 1 classes: a"):
        open_validation(open_source(tmp_path), ("a",), 32, None)
