"""The usual files of MNIST, FashionMNIST, SVHN, downsampled ImageNet and ImageNet's validation part, and bad ones."""

from __future__ import annotations

import gzip
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ddfast._types import IMAGENET
from ddfast.data.arrays import ArraySource
from ddfast.data.folder import SourceWarning
from ddfast.data.sources import open_source
from ddfast.data.space import FASHION_MNIST, MNIST, SVHN, known_normalization
from tests.data.data_helpers import make_class_folders
from tests.data.known_sets import idx, make_downsampled, make_flat, make_idx, make_svhn


def arrays(source: object) -> tuple[np.ndarray, np.ndarray]:
    """All pictures of a source, class by class, with their labels."""
    assert isinstance(source, ArraySource)
    places = [(label, position) for label in range(len(source.class_names)) for position in range(source.count(label))]
    return np.stack([source.load(*place) for place in places]), np.array([label for label, _ in places])


@pytest.mark.parametrize("packed", [False, True])
def test_mnist(tmp_path: Path, packed: bool) -> None:
    images, labels = make_idx(tmp_path / "data/MNIST/raw", packed=packed)
    for spec in ("data", "data/MNIST", "data/MNIST/raw", "data/MNIST:train"):
        source = open_source(tmp_path / spec)
        found, where = arrays(source)
        order = np.argsort(labels, kind="stable")
        assert np.array_equal(found[..., 0], images[order])
        assert np.array_equal(where, labels[order])
        assert found.shape == (12, 28, 28, 3)
        assert source.name == "mnist"
        assert source.class_names == tuple("0123456789")
        assert known_normalization(source.name) == MNIST
    assert open_source(f"{tmp_path}/data/MNIST:test").name == "mnist:test"
    with pytest.raises(ValueError, match="split: got 'val', expected 'train' or 'test'"):
        open_source(f"{tmp_path}/data/MNIST:val")


def test_fashion_mnist_is_known_by_its_folder(tmp_path: Path) -> None:
    make_idx(tmp_path / "FashionMNIST/raw")
    source = open_source(tmp_path / "FashionMNIST")
    assert (source.name, source.class_names[9]) == ("fashionmnist", "Ankle boot")
    assert known_normalization(f"{source.name}:test") == FASHION_MNIST
    make_idx(tmp_path / "MNIST/raw", seed=1)
    with pytest.raises(ValueError, match=r"holds MNIST and FashionMNIST, expected one; name .*MNIST"):
        open_source(tmp_path)
    make_idx(tmp_path / "KMNIST/raw")
    assert open_source(tmp_path / "KMNIST").name == "kmnist"
    assert known_normalization("kmnist") is None
    make_idx(tmp_path / "pictures")
    with pytest.warns(SourceWarning, match="call the folder mnist or fashionmnist instead of 'pictures'"):
        assert open_source(tmp_path / "pictures").name == "pictures"
    for name in ("notMNIST", "emnist-digits"):
        make_idx(tmp_path / name)
        with pytest.warns(SourceWarning, match="call the folder mnist or fashionmnist"):
            assert open_source(tmp_path / name).name == name
    make_idx(tmp_path / "my_mnist-2")
    assert open_source(tmp_path / "my_mnist-2").name == "mnist"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:-1], r"has 9407 bytes, expected 9408 for \[12, 28, 28\]; is it cut short"),
        (lambda data: data + b"x", "has 9409 bytes, expected 9408"),
        (lambda data: data[:10], "expected 00 00 08 03"),
        (lambda data: b"", "begins with nothing, expected 00 00 08 03"),
        (lambda data: b"\x00\x00\x0d\x03" + data[4:], "begins with 00 00 0d 03, expected"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "has 9408 bytes, expected 79228162458924105385300197375"),
        (lambda data: data[:4] + (11).to_bytes(4, "big") + data[8 : -28 * 28], "11 pictures and 12 labels"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    make_idx(tmp_path / "mnist")
    file = tmp_path / "mnist/train-images-idx3-ubyte"
    data = damage(file.read_bytes())
    file.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "mnist")
    file.unlink()
    (tmp_path / "mnist/train-images-idx3-ubyte.gz").write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "mnist")


def test_other_damage_of_idx_sets(tmp_path: Path) -> None:
    make_idx(tmp_path / "mnist", packed=True)
    file = tmp_path / "mnist/train-labels-idx1-ubyte.gz"
    whole = file.read_bytes()
    for data in (whole[:-9], b"no gzip", whole[:12] + b"\xff\xff" + whole[14:]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"cannot be unpacked \(.*\); fetch it again"):
            open_source(tmp_path / "mnist")
    file.write_bytes(gzip.compress(idx(np.full(12, 10, np.uint8))))
    with pytest.raises(ValueError, match="has the label 10, expected 0 to 9"):
        open_source(tmp_path / "mnist")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"train-labels-idx1-ubyte: is missing, as is"):
        open_source(tmp_path / "mnist")


@pytest.mark.parametrize(("order", "packed"), [("<", True), ("<", False), (">", True)])
def test_svhn(tmp_path: Path, order: str, packed: bool) -> None:
    images = make_svhn(tmp_path / "SVHN", order=order, packed=packed)
    source = open_source(tmp_path / "SVHN")
    assert (source.name, source.class_names) == ("svhn", tuple("0123456789"))
    assert [source.count(label) for label in range(10)] == [1, 2] + [1] * 8
    assert np.array_equal(source.load(1, 1), images[..., 10])
    assert np.array_equal(source.load(0, 0), images[..., 9]), "what the file calls 10 is the digit 0"
    assert known_normalization("svhn:test") == SVHN
    assert open_source(tmp_path).name == "svhn"
    with pytest.raises(FileNotFoundError, match=r"test_32x32\.mat: this part of SVHN is missing"):
        open_source(f"{tmp_path}/SVHN:test")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [np.uint8, np.float64, np.int32])
def test_svhn_as_another_program_writes_it(tmp_path: Path, kind: type, packed: bool) -> None:
    io = pytest.importorskip("scipy.io", reason="files written by scipy")
    images = np.random.default_rng(1).integers(0, 256, (32, 32, 3, 5), np.uint8)
    labels = np.array([[3], [10], [1], [7], [10]], kind)
    io.savemat(tmp_path / "train_32x32.mat", {"y": labels, "other": "text", "X": images}, do_compression=packed)
    source = open_source(tmp_path)
    assert [source.count(label) for label in range(10)] == [2, 1, 0, 1, 0, 0, 0, 1, 0, 0]
    assert np.array_equal(source.load(0, 1), images[..., 4])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.zeros((32, 32, 11), np.uint8)}, r"X is uint8 \[32, 32, 11\], expected uint8 \[32, 32, 3, N\]"),
        ({"X": np.zeros((32, 32, 3, 11))}, r"X is float64 \[32, 32, 3, 11\], expected uint8"),
        ({"y": np.ones((10, 1), np.uint8)}, r"y is \[10, 1\], expected \[11, 1\] of 1 to 10"),
        ({"y": np.zeros((11, 1), np.uint8)}, "of 1 to 10"),
        ({"y": np.full((11, 1), 1.5)}, "of 1 to 10"),
    ],
)
def test_other_contents_of_svhn(tmp_path: Path, changes: dict[str, np.ndarray], message: str) -> None:
    make_svhn(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path)


@pytest.mark.parametrize("packed", [False, True])
def test_damaged_svhn(tmp_path: Path, packed: bool) -> None:
    make_svhn(tmp_path, packed=packed)
    file = tmp_path / "train_32x32.mat"
    whole = file.read_bytes()
    cut = [whole[:size] for size in (0, 3, 127, 128, 130, 140, 5000, len(whole) - 30)]
    for data in (*cut, b"x" * 300, whole[:124] + b"\0\2IM" + whole[128:]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match="no file of SVHN, or a damaged one"):
            open_source(tmp_path)
    refused = 0
    for place in range(128, 200):
        file.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        try:
            assert open_source(tmp_path).load(0, 0).shape == (32, 32, 3)  # such as in bits that say nothing of it
        except ValueError as error:
            assert "no file of SVHN, or a damaged one" in str(error)  # noqa: PT017
            refused += 1
    assert refused > 20


def test_downsampled_imagenet(tmp_path: Path) -> None:
    data = make_downsampled(tmp_path / "in")
    source = open_source(tmp_path / "in")
    assert (source.name, source.class_names) == ("imagenet8", ("n02119789", "n02100735", "n01440764"))
    assert [source.count(label) for label in range(3)] == [10, 10, 10]
    assert np.array_equal(source.load(1, 2), data[6].reshape(3, 8, 8).transpose(1, 2, 0))
    assert known_normalization("imagenet64:val") == IMAGENET
    assert open_source(f"{tmp_path / 'in'}:val").name == "imagenet8:val"
    (tmp_path / "in/map_clsloc.txt").rename(tmp_path / "map_clsloc.txt")
    assert open_source(tmp_path / "in").fingerprint() == source.fingerprint()
    with pytest.raises(ValueError, match="split: got 'test', expected 'train' or 'val'"):
        open_source(f"{tmp_path / 'in'}:test")


def test_bad_files_of_downsampled_imagenet(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    make_downsampled(folder)
    file = folder / "train_data_batch_7.npz"
    good = {"data": np.zeros((3, 192), np.uint8), "labels": np.array([1, 2, 3])}
    for changes, message in (
        ({"data": good["data"][:2]}, r"data: got uint8 \[2, 192\], expected uint8 \[3, 3 x side x side\]; is it cut"),
        ({"data": np.zeros((3, 190), np.uint8)}, r"got uint8 \[3, 190\]"),
        ({"data": np.zeros((3, 0), np.uint8)}, r"got uint8 \[3, 0\]"),
        ({"data": good["data"].astype(float)}, r"got float64 \[3, 192\]"),
        ({"data": np.zeros((3, 12), np.uint8)}, "has pictures of side 2, expected 8 as in train_data_batch_1"),
        ({"labels": np.array([0, 1, 2])}, r"labels: got 0 to 2, expected 1 to 3 as in map_clsloc\.txt"),
        ({"labels": np.array([1, 2, 4])}, "labels: got 1 to 4"),
        ({"labels": np.array([1.0, 2, 3])}, r"labels: got float64 \[3\], expected a list of integers"),
        ({"labels": np.array([1, 2, None])}, "has no array 'labels', or is damaged"),
    ):
        np.savez(file, **{**good, **changes})
        with pytest.raises(ValueError, match=message):
            open_source(folder)
    np.savez(file, x=np.zeros(3))
    with pytest.raises(ValueError, match="has no array 'labels', or is damaged"):
        open_source(folder)
    whole = (folder / "train_data_batch_6.npz").read_bytes()
    for data in (whole[:-30], whole[:20], b""):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r"train_data_batch_7\.npz: has no array"):
            open_source(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"_7\.npz: is missing, expected train_data_batch_1\.npz to .*_10\.npz"):
        open_source(folder)
    (folder / "train_data_batch_7").write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match="train_data_batch_7: is pickled, which could run code and is not read"):
        open_source(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n02119789 1 a\nn02100735 3 b\n", "with gaps or twice"),
        ("n02119789 1 a\nn02119789 2 b\n", "with gaps or twice"),
        ("n02119789 1 a\nn02100735 1 b\n", "line 2 gives 1 to a second class"),
        ("n02119789 0 a\n", "line 1 is 'n02119789 0 a', expected: WordNet id, number, name"),
        ("fox 1 a\n", "expected: WordNet id, number, name"),
        (None, r"has no map_clsloc\.txt beside its files"),
    ],
)
def test_bad_class_lists(tmp_path: Path, text: str | None, message: str) -> None:
    make_downsampled(tmp_path / "in")
    (tmp_path / "in/map_clsloc.txt").unlink()
    if text is not None:
        (tmp_path / "in/map_clsloc.txt").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "in")


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """ImageNet's folder as Kaggle packs it."""
    root = tmp_path / "ILSVRC/Data/CLS-LOC"
    make_flat(tmp_path, root)
    return root


def test_flat_validation_pictures_of_imagenet(tmp_path: Path, flat: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(f"{flat}:val")
    assert source.name == "CLS-LOC:val"
    assert source.class_names == ("n01000000", "n02000000", "n03000000")
    assert [source.count(label) for label in range(3)] == [1, 1, 2]
    assert source.sample_id(2, 1) == "n03000000/ILSVRC2012_val_00000003.JPEG"
    assert source.load(2, 1) == (flat / "val/ILSVRC2012_val_00000003.JPEG").read_bytes()
    sorted_ = tmp_path / "sorted"
    for label, wnid in enumerate(source.class_names):
        (sorted_ / wnid).mkdir(parents=True)
        for position in range(source.count(label)):
            (sorted_ / source.sample_id(label, position)).write_bytes(source.load(label, position))
    assert open_source(sorted_).fingerprint() == source.fingerprint()
    make_class_folders(flat / "train", {"n03000000": 1, "n01000000": 1})
    subset = open_source(flat / "val")
    assert subset.class_names == open_source(f"{flat}:train").class_names == ("n01000000", "n03000000")
    assert subset.count(1) == 2
    make_class_folders(tmp_path / "nette/train", {"n02000000": 1})
    (tmp_path / "nette/val").symlink_to(flat / "val")
    linked = open_source(f"{tmp_path / 'nette'}:val")
    assert (linked.class_names, linked.count(0)) == (("n02000000",), 1)


def test_flat_validation_pictures_need_a_sound_list(tmp_path: Path, flat: Path) -> None:
    file = tmp_path / "LOC_val_solution.csv"
    text = file.read_text()
    for line in (
        "ILSVRC2012_val_00000001,n01000000 1 2",
        "../x,n01000000 1",
        "a/b,n01000000 1",
        "new,dog 1",
        "new",
        ",n01000000",
    ):
        file.write_text(f"{text}{line}\n")
        with pytest.raises(ValueError, match=re.escape(f"line 6 is {line!r}, expected: a new picture")):
            open_source(f"{flat}:val")
    file.unlink()
    with pytest.raises(ValueError, match=r"put LOC_val_solution\.csv beside it .*or sort them"):
        open_source(f"{flat}:val")
