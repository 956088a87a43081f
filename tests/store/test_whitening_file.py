"""The whitening beside a set: written, read, checked, and what loader and exports make of it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddfast.data.whitening import ZCA
from ddfast.store import DistilledSet, load, manifest_bytes, read_manifest
from ddfast.store.whitening import WHITENING_FILE, Whitening

NORM = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}


def real(count: int = 60) -> torch.Tensor:
    return torch.randint(0, 256, (count, 4, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def white_set() -> DistilledSet:
    """Two images a class of two, trained where the whitening of `real` leads, and not what their pixels say."""
    zca = ZCA.fit(real())
    images = real(4)
    extras = {"trained_images": zca.apply(images) * 1.5, "lr": torch.tensor([0.02])}
    manifest = {"space": "zca", "normalization": NORM, "recipe": {"protocol": "dsa", "dsa": "color_crop"}}
    return DistilledSet(images, torch.tensor([0, 1, 0, 1]), ("a", "b"), manifest, extras, zca)


def test_it_is_stored_once_and_read_back(tmp_path: Path) -> None:
    made = white_set()
    made.save(tmp_path / "set", format="safetensors")
    found = load(tmp_path / "set")
    assert made.whitening is not None
    assert found.whitening is not None
    assert torch.equal(found.whitening.apply(real()), made.whitening.apply(real()))
    entry = found.manifest["whitening"]
    assert entry["bytes"] == (tmp_path / "set" / WHITENING_FILE).stat().st_size
    assert set(load_file(tmp_path / "set" / WHITENING_FILE)) == {"mean", "matrix"}
    assert found.manifest["bytes"]["extras"] == 4 * 4 * 48 + 4, "a preprocessing, no part of the set's bytes"
    found.save(tmp_path / "again", format="safetensors")
    assert load(tmp_path / "again").manifest["whitening"] == entry
    found.whitening = None
    found.save(tmp_path / "without", format="safetensors")
    assert "whitening" not in load(tmp_path / "without").manifest


def test_a_copy_may_leave_it_out_but_not_change_it(tmp_path: Path) -> None:
    path = white_set().save(tmp_path / "set", format="safetensors") / WHITENING_FILE
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"\x00")
    with pytest.raises(ValueError, match=r"is not the file that the manifest lists .*copy the set anew"):
        load(tmp_path / "set")
    path.unlink()
    assert load(tmp_path / "set").whitening is None
    manifest = tmp_path / "set/manifest.json"
    manifest.write_text(manifest.read_text().replace(WHITENING_FILE, "../whitening.safetensors"))
    with pytest.raises(ValueError, match="whitening: got"):
        load(tmp_path / "set")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mean": torch.zeros(48)}, "expected mean and matrix in float32"),
        ({"mean": torch.zeros(48), "matrix": torch.zeros(48, 48).double()}, "expected mean and matrix in float32"),
        ({"mean": torch.zeros(48), "matrix": torch.zeros(48, 47)}, r"got shapes \[48\] and \[48, 47\]"),
        ({"mean": torch.zeros(27), "matrix": torch.zeros(27, 27)}, "of 27 numbers, the set's have 48"),
        ({"mean": torch.full((48,), float("nan")), "matrix": torch.zeros(48, 48)}, "NaN or infinity"),
    ],
)
def test_files_that_the_manifest_lists_but_no_set_has(
    tmp_path: Path, tensors: dict[str, torch.Tensor], message: str
) -> None:
    folder = white_set().save(tmp_path / "set", format="safetensors")
    save_file(tensors, folder / WHITENING_FILE)
    data = (folder / WHITENING_FILE).read_bytes()
    manifest = read_manifest(folder / "manifest.json")
    manifest["whitening"] |= {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_pictures_of_both_layouts() -> None:
    white = white_set().whitening
    assert white is not None
    tensors = real().permute(0, 3, 1, 2).float() / 255  # as ToTensor gives
    assert torch.equal(white.apply(tensors), white.apply(real()))
    assert white.apply(real()[:0]).shape == (0, 3, 4, 4)
    rows = (tensors.double().flatten(1) - white.mean.double()) @ white.matrix.double()
    torch.testing.assert_close(white.apply(real()).flatten(1).double(), rows, rtol=1e-5, atol=1e-5)
    wrong = (real()[0], tensors[:, :, :3], torch.zeros(2, 5, 5, 3, dtype=torch.uint8), real().long())
    for images in wrong:
        with pytest.raises(ValueError, match=r"images: got .* with 48 numbers a picture"):
            white.apply(images)
    with pytest.raises(ValueError, match="mean, matrix: got shapes"):
        Whitening(white.mean, white.matrix[:3])


def test_the_loader_gives_what_was_trained(tmp_path: Path) -> None:
    made = white_set()
    one = load(made.save(tmp_path / "set", format="safetensors"))
    (images, labels), *rest = one.dataloader(4, shuffle=False)  # its recipe has no flips: nothing is drawn
    assert not rest
    assert torch.equal(images, made.extras["trained_images"])
    assert torch.equal(labels, made.labels)
    pixels = next(iter(one.dataloader(4, shuffle=False, trained=False)))[0]
    mean, std = (torch.tensor(NORM[name]).view(3, 1, 1) for name in ("mean", "std"))
    torch.testing.assert_close(pixels, (made.images.permute(0, 3, 1, 2) / 255 - mean) / std, rtol=1e-4, atol=1e-5)
    one.manifest["recipe"] = {"flip": True, "shift": 1}
    torch.manual_seed(0)
    moved = torch.cat([x for _ in range(8) for x, _ in one.dataloader(4, shuffle=False)])
    assert moved.is_contiguous()
    assert any(torch.equal(x, made.extras["trained_images"][0].flip(2)) for x in moved[::4])
    one.manifest |= {"recipe": {"scale": [0.5, 1.0]}}
    with pytest.raises(ValueError, match="random crops are of 8-bit pictures; give trained=False"):
        one.dataloader(4)
    del one.extras["trained_images"]
    with pytest.raises(ValueError, match="trained: got True, but the set has no trained images"):
        one.dataloader(4, trained=True)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [(torch.zeros(4, 3, 4, 5), "expected floats"), (torch.zeros(4, 3, 4, 4).long(), "expected floats"),
     (torch.full((4, 3, 4, 4), float("nan")), "NaN or infinity")],
)  # fmt: skip
def test_trained_images_that_do_not_fit(wrong: torch.Tensor, message: str) -> None:
    made = white_set()
    made.extras["trained_images"] = wrong
    with pytest.raises(ValueError, match=message):
        made.dataloader(4)
    made.manifest["space"] = None  # what they mean is not known: pixels
    assert next(iter(made.dataloader(4)))[0].shape == (4, 3, 4, 4)


def test_json_of_the_entry(tmp_path: Path) -> None:
    folder = white_set().save(tmp_path / "set", format="safetensors")
    entry = json.loads((folder / "manifest.json").read_text())["whitening"]
    assert sorted(entry) == ["bytes", "file", "sha256"]
