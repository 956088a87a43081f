"""The distilled set: round trips, the reference's folder, refusals, the torch data set."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from safetensors import SafetensorError
from torch.utils.data import DataLoader

import ddfast
from ddfast._types import IMAGENET
from ddfast.runs import folder as run_folder
from ddfast.store import DistilledSet, ImageFormat, assemble_manifest, class_files, class_record, load, manifest_bytes
from ddfast.store import files as store_files

NAMES = ("tench", "../escape", "chain saw")


def make(per_class: int = 2, height: int = 12, width: int = 16, **options: object) -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(per_class)
    images = torch.randint(0, 256, (3 * per_class, height, width, 3), dtype=torch.uint8, generator=generator)
    return DistilledSet(images, labels, NAMES, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("lossless", [True, False])
def test_folder_round_trip(tmp_path: Path, lossless: bool) -> None:
    original = make(extras={"lr": torch.tensor(0.01), "soft_logits": torch.randn(6, 3)})
    root = original.save(tmp_path / "set", lossless=lossless)
    back = load(root)
    assert torch.equal(back.labels, original.labels)
    assert back.class_names == NAMES
    assert torch.equal(back.extras["soft_logits"], original.extras["soft_logits"])
    assert back.extras["lr"].shape == ()
    if lossless:
        assert torch.equal(back.images, original.images)
    else:
        expected = [np.array(Image.open(file)) for file in sorted(root.rglob("*.jpg"))]
        assert np.array_equal(back.images.numpy(), np.stack(expected))
    suffix = "png" if lossless else "jpg"
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob(f"*.{suffix}"))
    assert names == [f"{c:05d}/class{c:05d}_id{i:05d}.{suffix}" for c in range(3) for i in range(2)]
    sizes = [sum((root / name).stat().st_size for name in names if name.startswith(f"{c:05d}")) for c in range(3)]
    assert back.manifest["bytes"]["per_class"] == sizes
    assert back.manifest["bytes"]["images"] == sum(sizes)
    assert back.manifest["bytes"]["manifest"] == (root / "manifest.json").stat().st_size
    assert back.manifest["bytes"]["extras"] == 4 * 19
    assert os.listdir(tmp_path) == ["set"], "no class name became a path, no temporary is left"


def test_safetensors_round_trip(tmp_path: Path) -> None:
    original = make(per_class=1, extras={"soft_logits": torch.randn(3, 3).half()})
    original.images = original.images.flip(1).transpose(1, 2).contiguous().transpose(1, 2)  # not contiguous
    back = load(original.save(tmp_path / "set", format="safetensors"))
    assert torch.equal(back.images, original.images)
    assert torch.equal(back.labels, original.labels)
    assert torch.equal(back.extras["soft_logits"], original.extras["soft_logits"])
    assert sorted(os.listdir(tmp_path / "set")) == ["images.safetensors", "manifest.json"]
    assert back.manifest["bytes"]["images"] == 3 * 12 * 16 * 3
    assert back.manifest["bytes"]["labels"] == 24
    assert back.manifest["images"][0] == {"file": None, "label": 0, "cells": []}


def test_order_that_is_not_class_by_class_is_kept(tmp_path: Path) -> None:
    original = make()
    order = torch.tensor([5, 0, 3, 1, 4, 2])
    mixed = DistilledSet(original.images[order], original.labels[order], NAMES)
    for format in ("folder", "safetensors"):
        back = load(mixed.save(tmp_path / format, format=format, lossless=True))
        assert torch.equal(back.images, mixed.images)
        assert torch.equal(back.labels, mixed.labels)


def test_manifest_survives_conversion(tmp_path: Path) -> None:
    """Folder -> safetensors -> folder keeps provenance and the method's own keys."""
    original = make()
    files = [class_files(c, original.images[2 * c : 2 * c + 2], ImageFormat("png")) for c in range(3)]
    manifest = assemble_manifest(
        [class_record(c, files[c], failures=[("x", "broken")]) for c in range(3)],
        class_names=NAMES, resolution=(12, 16), method="rded", seed=4, normalization=IMAGENET,
        image_format=ImageFormat("png"), versions={"torch": "1.0"},
    )  # fmt: skip
    manifest["images"][4]["cells"] = [{"sample": "s", "box": [0, 0, 3, 3], "score": 0.5}]
    manifest["selection"] = {"changed": 0}
    for name, data in {**files[0], **files[1], **files[2]}.items():
        (tmp_path / "a" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "a" / name).write_bytes(data)
    (tmp_path / "a/manifest.json").write_bytes(manifest_bytes(manifest))
    first = load(tmp_path / "a")
    assert torch.equal(first.images, original.images)
    second = load(first.save(tmp_path / "b", format="safetensors"))
    third = load(second.save(tmp_path / "c", lossless=True))
    assert third.manifest == first.manifest
    assert third.normalization == IMAGENET
    assert (tmp_path / "c/manifest.json").read_bytes() == (tmp_path / "a/manifest.json").read_bytes()


def test_folder_of_the_reference_without_manifest(tmp_path: Path) -> None:
    original = make(per_class=12)
    for c in range(3):
        for name, data in class_files(c, original.images[12 * c : 12 * c + 12]).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(data)
    (tmp_path / "00000/Thumbs.db").write_bytes(b"")
    back = load(tmp_path)
    assert back.class_names == ("00000", "00001", "00002")
    assert torch.equal(back.labels, original.labels)
    expected = original.save(tmp_path / "described")
    assert torch.equal(back.images, load(expected).images)
    assert back.manifest == {}
    assert back.normalization is None


def test_folders_without_zero_padding_and_with_names(tmp_path: Path) -> None:
    for folder in ("0", "1", "2", "10"):
        (tmp_path / "numbers" / folder).mkdir(parents=True)
        for index in (2, 10, 1):
            pixels = np.full((4, 4, 3), 20 * int(folder) + index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "numbers" / folder / f"img{index}.png")
    back = load(tmp_path / "numbers")
    assert back.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [10] * 3
    assert back.images[:, 0, 0, 0].tolist() == [20 * f + i for f in (0, 1, 2, 10) for i in (1, 2, 10)]
    assert len(back.class_names) == 11
    for index, name in enumerate(["n02", "n01"]):
        (tmp_path / "names" / name).mkdir(parents=True)
        Image.fromarray(np.full((4, 4, 3), index, np.uint8)).save(tmp_path / "names" / name / "a.PNG")
    back = load(tmp_path / "names")
    assert back.class_names == ("n01", "n02")
    assert back.images[:, 0, 0, 0].tolist() == [1, 0]


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    root = make().save(tmp_path / "set")
    victim = root / "00001/class00001_id00001.jpg"
    data = victim.read_bytes()
    victim.write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"class00001_id00001\.jpg: not a readable image"):
        load(root)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(victim)
    with pytest.raises(ValueError, match=r"class00001_id00001\.jpg: got 8 x 8 pixels, expected 12 x 16"):
        load(root)
    victim.unlink()
    with pytest.raises(ValueError, match=r"class00001_id00001\.jpg: missing, but manifest\.json lists it"):
        load(root)
    (root / "manifest.json").unlink()
    assert len(load(root)) == 5, "without a manifest the folder is all there is"
    with pytest.raises(FileNotFoundError, match="no such folder"):
        load(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images found"):
        load(tmp_path / "empty")


def test_damaged_safetensors(tmp_path: Path) -> None:
    root = make().save(tmp_path / "set", format="safetensors")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["images"][0]["label"] = 1
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="labels differ"):
        load(root)
    (root / "images.safetensors").write_bytes(b"\xff" * 50)
    with pytest.raises(ValueError, match=r"images\.safetensors: damaged"):
        load(root)
    (root / "images.safetensors").unlink()
    with pytest.raises(ValueError, match=r"images\.safetensors: missing"):
        load(root)


def test_unfinished_run_is_no_set(tmp_path: Path) -> None:
    root = make().save(tmp_path / "set")
    (root / "manifest.json").unlink()
    (root / "run.json").write_text('{"format": "ddfast.run"}')
    with pytest.raises(ValueError, match=r"not finished.*--resume"):
        load(root)


def test_save_into_the_folder_of_its_run(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    (root / "run.json").write_text('{"format": "ddfast.run"}')
    (root / "records.json").write_text("{}")
    original = make()
    original.save(root, format="safetensors")
    assert sorted(os.listdir(root)) == ["images.safetensors", "manifest.json", "records.json", "run.json"]
    assert torch.equal(load(root).images, original.images)
    with pytest.raises(FileExistsError):
        original.save(root, format="safetensors")
    shutil.rmtree(root)
    root.mkdir()
    (root / "run.json").write_text('{"format": "ddfast.run"}')
    assert len(load(original.save(root))) == 6


def test_save_refuses_folders_in_use_and_leaves_nothing_on_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("used", "file"):
        with pytest.raises(FileExistsError, match="not an empty folder"):
            make().save(tmp_path / name)
    real = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "manifest.json":
            raise OSError(28, "No space left on device")
        return real(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        make().save(tmp_path / "set")
    assert sorted(os.listdir(tmp_path)) == ["file", "used"]


def test_tensors_are_on_the_disk_before_the_set_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, flushed = os.fsync, []

    def fsync(handle: int) -> None:
        flushed.append((os.fstat(handle).st_ino, (tmp_path / "set").exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    make().save(tmp_path / "set", format="safetensors")
    for name in ("images.safetensors", "manifest.json"):
        assert ((tmp_path / "set" / name).stat().st_ino, False) in flushed
    assert (tmp_path.stat().st_ino, True) in flushed


def test_a_full_disk_while_tensors_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(tensors: object, path: Path) -> None:
        path.write_bytes(b"part")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=r"No space left .* free some space and write the set again") as caught:
        make().save(tmp_path / "set", format="safetensors")
    assert caught.value.errno == errno.ENOSPC
    assert os.listdir(tmp_path) == []


def test_the_name_of_a_runs_file_is_that_of_runs() -> None:
    assert store_files.RUN_FILE == run_folder.RUN_FILE


def test_save_into_an_existing_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert len(load(make().save(tmp_path / "empty"))) == 6


def test_quality_reaches_the_files(tmp_path: Path) -> None:
    small = load(make().save(tmp_path / "a", jpeg_quality=10)).manifest
    large = load(make().save(tmp_path / "b", jpeg_quality=95, subsampling="4:4:4")).manifest
    assert small["bytes"]["images"] < large["bytes"]["images"]
    assert large["storage"]["image_format"] == {"kind": "jpeg", "quality": 95, "subsampling": "4:4:4"}


def test_empty_set_and_uneven_classes(tmp_path: Path) -> None:
    nothing = DistilledSet(torch.zeros(0, 4, 4, 3, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), ("a",))
    for format in ("folder", "safetensors"):
        back = load(nothing.save(tmp_path / format, format=format))
        assert back.images.shape == (0, 4, 4, 3)
        assert back.ipc == 0
    uneven = make()
    uneven = DistilledSet(uneven.images[:3], uneven.labels[:3], NAMES)
    assert (uneven.counts, uneven.ipc, len(uneven)) == ([2, 1, 0], 2, 3)
    assert load(uneven.save(tmp_path / "uneven")).counts == [2, 1, 0]


def test_torch_data_set() -> None:
    original = make()
    data = original.as_dataset()
    picture, label = data[3]
    assert isinstance(picture, Image.Image)
    assert np.array_equal(np.array(picture), original.images[3].numpy())
    assert (label, data.targets[3], data.classes[label]) == (1, 1, "../escape")
    assert data.class_to_idx == {"tench": 0, "../escape": 1, "chain saw": 2}
    loader = DataLoader(original.as_dataset(lambda image: image.float() / 255, kind="tensor"), batch_size=4)
    images, labels = next(iter(loader))
    assert images.shape == (4, 3, 12, 16)
    assert torch.equal(images[2], original.images[2].permute(2, 0, 1) / 255)
    assert labels.tolist() == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="kind: got 'array'"):
        original.as_dataset(kind="array")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"images": torch.zeros(6, 4, 4, 3)}, TypeError, r"images: got torch\.float32"),
        ({"images": torch.zeros(6, 3, 4, 4, dtype=torch.uint8)}, ValueError, r"images: got shape \(6, 3, 4, 4\)"),
        ({"labels": torch.zeros(6, dtype=torch.int32)}, TypeError, r"labels: got torch\.int32"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, ValueError, r"labels: got shape \(5,\) for 6 images"),
        ({"labels": torch.full((6,), 3)}, ValueError, r"labels: got 3 \.\. 3, expected 0 \.\. 2"),
        ({"extras": {"labels": torch.zeros(1)}}, ValueError, "extras: got"),
    ],
)
def test_bad_sets(change: dict[str, object], error: type[Exception], message: str) -> None:
    good = make()
    parts = {"images": good.images, "labels": good.labels, "class_names": NAMES, **change}
    with pytest.raises(error, match=message):
        DistilledSet(**parts)  # type: ignore[arg-type]


def test_bad_save_options(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format: got 'zip'"):
        make().save(tmp_path / "x", format="zip")
    with pytest.raises(ValueError, match="quality: got 200"):
        make().save(tmp_path / "x", jpeg_quality=200)
    with pytest.raises(ValueError, match="got 1 entries for 6 images"):
        make(manifest={"images": [{"cells": []}]}).save(tmp_path / "x")
    assert os.listdir(tmp_path) == []


def test_public_names() -> None:
    assert ddfast.DistilledSet is DistilledSet
    assert ddfast.load is load
