"""Exports read back by the programs they are for, and the ready loader."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from ddfast._types import IMAGENET, Normalization
from ddfast.data.whitening import ZCA
from ddfast.nets import imagenet_wnids
from ddfast.store import DistilledSet, load, read_manifest
from ddfast.store.ddranking import CIFAR, DATASETS, SUBSETS
from ddfast.store.export import export
from ddfast.store.loader import recipe_of

NORM = Normalization((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def make_set(counts: tuple[int, ...] = (2, 2, 2), side: int = 32, **manifest: object) -> DistilledSet:
    """Random pixels; labels in mixed order, names whose sorted order is another."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=generator)]
    images = torch.randint(0, 256, (len(labels), side, side, 3), dtype=torch.uint8, generator=generator)
    described = {"normalization": {"mean": list(NORM.mean), "std": list(NORM.std)}, **manifest}
    return DistilledSet(images, labels, tuple(f"zebra {9 - c}" for c in range(len(counts))), described)


def test_imagefolder_is_read_back_by_torchvision(tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    one = make_set((3, 1, 12), 24)
    assert one.export("imagefolder", tmp_path / "out") == tmp_path / "out"
    loaded = ImageFolder(str(tmp_path / "out" / "train"))
    assert loaded.classes == ["00000", "00001", "00002"]
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == list(one.class_names)
    order = torch.argsort(one.labels, stable=True)
    assert loaded.targets == one.labels[order].tolist()
    for index, (image, _) in zip(order.tolist(), loaded, strict=True):
        assert np.array_equal(np.array(image), one.images[index].numpy())
    export(one, "imagefolder", tmp_path / "lossy", jpeg=True)
    assert len(list((tmp_path / "lossy").rglob("*.jpg"))) == 16


@pytest.mark.parametrize("jpeg", [False, True])
def test_imagefolder_is_read_back_with_its_manifest(tmp_path: Path, jpeg: bool) -> None:
    one = make_set((3, 1, 2), 24, source={"name": "pets", "fingerprint": "ab"}, method="pdd", seed=3, lr=0.02,
                   recipe={"protocol": "dsa", "dsa": ""}, stages=[0, 1, 0, 1, 0, 1], space="normalized")  # fmt: skip
    one.manifest["images"] = [
        {"cells": [{"sample": f"{row}.png", "box": [0, 0, 9, 9], "score": 1}]} for row in range(6)
    ]
    one.extras = {"trained_images": torch.randn(6, 3, 24, 24), "latents.0": torch.zeros(2)}
    one.manifest |= {
        "distribution": {"storage": "fp16", "blocks": []},
        "soft_labels": {"teacher": "teacher.safetensors"},
    }
    export(one, "imagefolder", tmp_path / "out", jpeg=jpeg)
    back = load(tmp_path / "out")
    assert jpeg or torch.equal(back.images, one.images)  # in the set's order, not the folders'
    assert torch.equal(back.labels, one.labels)
    assert back.class_names == one.class_names
    kept = ("method", "seed", "lr", "recipe", "source", "stages", "normalization", "space")
    assert {key: back.manifest[key] for key in kept} == {key: one.manifest[key] for key in kept}
    assert [entry["cells"][0]["sample"] for entry in back.manifest["images"]] == [f"{row}.png" for row in range(6)]
    assert back.manifest["exported"] == {
        "to": "imagefolder", "left_out": ["distribution", "latents", "soft_labels", "trained_images"]
    }  # fmt: skip
    files = list((tmp_path / "out/train").rglob("*.jpg" if jpeg else "*.png"))
    sizes = back.manifest["bytes"]
    assert (sizes["images"], sizes["extras"]) == (sum(file.stat().st_size for file in files), 0)
    assert back.trained_images is None
    back.save(tmp_path / "again", lossless=True)
    assert "exported" not in load(tmp_path / "again").manifest, "a set of its own again"


TEN = (2,) * 10


def test_ddranking_tensors_are_normalised_class_major_and_safe_to_load(tmp_path: Path) -> None:
    one = make_set(TEN, lr=0.03)
    one.extras["soft_logits"] = torch.randn(20, 10)
    export(one, "ddranking", tmp_path / "out", dataset="CIFAR10")
    images, labels, rate, soft = read(tmp_path / "out", "images", "labels", "lr", "soft_labels")
    assert labels.tolist() == torch.arange(10).repeat_interleave(2).tolist()
    assert labels.dtype == torch.int64
    assert rate.shape == ()
    assert rate == torch.tensor(0.03)
    assert images.dtype == soft.dtype == torch.float32
    assert images.shape == (20, 3, 32, 32)
    assert images.is_contiguous()
    order = torch.argsort(one.labels, stable=True)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (CIFAR.mean, CIFAR.std))
    expected = (one.images[order].double() / 255 - mean) / std
    torch.testing.assert_close(images.double(), expected.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    assert torch.equal(soft, one.extras["soft_logits"][order])


def read(folder: Path, *names: str) -> list[torch.Tensor]:
    """Tensors of ``.pt`` files, as their readers load them by default."""
    return [torch.load(folder / f"{name}.pt", weights_only=True) for name in names]


def trained_set(space: str = "normalized") -> DistilledSet:
    """As a matching method leaves it: floats of any size beside their visible pixels, and a learned rate."""
    one = make_set(TEN, 8, space=space)
    one.extras = {"trained_images": 3 * torch.randn(20, 3, 8, 8), "lr": torch.tensor([0.02, 0.07])}
    return one


def test_mtt_tensors_are_the_trained_images_in_their_space(tmp_path: Path) -> None:
    for space in ("normalized", "zca"):
        one = trained_set(space)
        export(one, "mtt", tmp_path / space)
        images, labels, rate = read(tmp_path / space, "images_best", "labels_best", "lr_best")
        order = torch.argsort(one.labels, stable=True)
        assert torch.equal(images, one.extras["trained_images"][order])
        assert torch.equal(labels, one.labels[order])
        assert rate.shape == ()
        assert rate == torch.tensor(0.07)  # the last stage's
        note = json.loads((tmp_path / space / "space.json").read_text())
        assert (note["space"], note["normalization"] is None) == (space, space == "zca")
        assert note["whitening"] is None
        assert note["class_names"] == list(one.class_names)


def test_mtt_files_of_a_whitened_set_hold_its_whitening(tmp_path: Path) -> None:
    one = trained_set("zca")
    one.whitening = ZCA.fit(one.images)
    export(one, "mtt", tmp_path / "out")
    assert json.loads((tmp_path / "out/space.json").read_text())["whitening"] == "zca.pt"
    zca = torch.load(tmp_path / "out/zca.pt", weights_only=True)
    pixels = one.images.permute(0, 3, 1, 2) / 255
    white = ((pixels.flatten(1) - zca["mean"]) @ zca["matrix"]).view_as(pixels)
    torch.testing.assert_close(white, one.whitening.apply(one.images), rtol=1e-5, atol=1e-5)
    kornia = pytest.importorskip("kornia", reason="needs kornia (extra interchange)")  # which MTT and its kin whiten by
    theirs = kornia.enhance.linear_transform(pixels, zca["matrix"], zca["mean"][None])
    torch.testing.assert_close(theirs, white, rtol=1e-4, atol=1e-4)


def test_mtt_tensors_of_sets_without_trained_images(tmp_path: Path) -> None:
    one = make_set()
    export(one, "mtt", tmp_path / "hard")
    assert not (tmp_path / "hard" / "lr_best.pt").exists()  # no rate is better than an invented one
    (images,) = read(tmp_path / "hard", "images_best")
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (NORM.mean, NORM.std))
    expected = ((one.images[torch.argsort(one.labels, stable=True)].double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(images.double(), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="labels: got 'soft', but the set has no soft_logits"):
        export(one, "mtt", tmp_path / "soft", labels="soft")
    one.extras["soft_logits"] = torch.randn(6, 3).half()
    export(one, "mtt", tmp_path / "soft", labels="soft")
    (soft,) = read(tmp_path / "soft", "labels_best")
    assert soft.dtype == torch.float32
    assert torch.equal(soft, one.extras["soft_logits"][torch.argsort(one.labels, stable=True)].float())
    with pytest.raises(ValueError, match="1 to 3 images per class"):
        export(make_set((3, 1)), "mtt", tmp_path / "uneven")
    with pytest.raises(ValueError, match="labels: got 'both', expected 'hard' or 'soft'"):
        export(one, "mtt", tmp_path / "both", labels="both")


def test_ddranking_takes_trained_images_into_its_statistics(tmp_path: Path) -> None:
    one = trained_set()
    order = torch.argsort(one.labels, stable=True)
    export(one, "ddranking", tmp_path / "other", dataset="CIFAR10")
    images, rate = read(tmp_path / "other", "images", "lr")
    assert rate == torch.tensor(0.07)
    pixels = [
        values.double() * torch.tensor(norm.std).double().view(3, 1, 1) + torch.tensor(norm.mean).double().view(3, 1, 1)
        for values, norm in ((images, CIFAR), (one.extras["trained_images"][order], NORM))
    ]
    torch.testing.assert_close(*pixels, rtol=1e-5, atol=1e-5)
    one.manifest["normalization"] = {"mean": list(CIFAR.mean), "std": list(CIFAR.std)}
    export(one, "ddranking", tmp_path / "same", dataset="CIFAR10")
    assert torch.equal(read(tmp_path / "same", "images")[0], one.extras["trained_images"][order])
    white = trained_set("zca")  # whitened numbers mean nothing there: visible pixels
    export(white, "ddranking", tmp_path / "zca", dataset="CIFAR10")
    assert not torch.equal(read(tmp_path / "zca", "images")[0], white.extras["trained_images"][order])
    assert read(tmp_path / "zca", "images")[0].abs().max() < 3
    assert not (tmp_path / "zca/lr.pt").exists(), "its rate belongs to the whitened images"
    assert "distilled whitened (ZCA)" in (tmp_path / "zca/ddranking.yaml").read_text()
    assert (tmp_path / "same/lr.pt").exists()


def test_ddranking_subsets_are_in_its_order_of_classes(tmp_path: Path) -> None:
    one = make_set(TEN, 8)
    with pytest.raises(ValueError, match="must be its WordNet ids"):
        export(one, "ddranking", tmp_path / "out", dataset="ImageWoof")
    one.class_names = tuple(f"n{number:08d}" for number in range(10))
    with pytest.raises(ValueError, match=r"n00000000, n00000001, .* are not of ImageNette"):
        export(one, "ddranking", tmp_path / "out", dataset="ImageNette")
    # MTT's list as places among the sorted ImageNet classes; our labels in an order of their own
    places = [193, 182, 258, 162, 155, 167, 159, 273, 207, 229]
    listed = [imagenet_wnids()[place] for place in places]
    ours = [listed[-1], *sorted(listed[:-1])]
    one.class_names = tuple(ours)
    one.extras["soft_logits"] = torch.randn(20, 10)
    export(one, "ddranking", tmp_path / "out", dataset="ImageWoof")
    images, labels, soft = read(tmp_path / "out", "images", "labels", "soft_labels")
    assert labels.tolist() == [place for place in range(10) for _ in range(2)]
    mean, std = (torch.tensor(v).double() for v in (IMAGENET.mean, IMAGENET.std))
    for row, place in enumerate(labels.tolist()):
        label = ours.index(listed[place])
        index = torch.nonzero(one.labels == label)[row % 2, 0]
        expected = ((one.images[index].double() / 255 - mean) / std).permute(2, 0, 1)
        torch.testing.assert_close(images[row].double(), expected, rtol=1e-6, atol=1e-6)
        assert soft[row, place] == one.extras["soft_logits"][index, label]


@pytest.mark.parametrize("to", ["imagefolder", "mtt", "ddranking"])
def test_names_of_classes_need_not_be_unicode(tmp_path: Path, to: str) -> None:
    one = make_set((1,) * 10, 8)
    one.class_names = ("caf\udce9", *one.class_names[1:])
    options = {"dataset": "CIFAR10"} if to == "ddranking" else {}
    out = export(one, to, tmp_path / to, **options)
    if to == "mtt":
        assert json.loads((out / "space.json").read_text())["class_names"][0] == "caf\udce9"


def test_ddranking_settings_are_complete_yaml(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the settings back")
    for name, (classes, norm, model) in DATASETS.items():
        one = make_set((1,) * classes, 8)
        one.class_names = tuple(SUBSETS.get(name) or (f"n{label:08d}" for label in range(classes)))
        export(one, "ddranking", tmp_path / name, dataset=name)
        settings = yaml.safe_load((tmp_path / name / "ddranking.yaml").read_text())
        assert settings["custom_val_trans"] is None  # it fails without the key, null or not
        normalize = settings["custom_train_trans"][-1]
        assert normalize == {"name": "Normalize", "args": {"mean": list(norm.mean), "std": list(norm.std)}}
        assert (settings["dataset"], settings["ipc"], settings["im_size"]) == (name, 1, [8, 8])
        assert (settings["model_name"], settings["soft_label_mode"]) == (model, "M")
        assert settings["random_data_format"] == "image"


def test_ddranking_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 to 3 images per class"):
        export(make_set((3, 1, *TEN[2:]), 8), "ddranking", tmp_path / "out", dataset="CIFAR10")
    with pytest.raises(ValueError, match="none given; DD-Ranking knows only CIFAR10"):
        export(make_set(), "ddranking", tmp_path / "out")
    with pytest.raises(ValueError, match="dataset: got 'CIFAR100' for a set of 3 classes, it has 100"):
        export(make_set(), "ddranking", tmp_path / "out", dataset="CIFAR100")
    assert not any(tmp_path.iterdir())  # nothing half-written
    export(make_set(TEN, source={"name": "cifar10", "fingerprint": ""}), "ddranking", tmp_path / "out")


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs pyarrow (extra huggingface)")
def test_parquet_is_read_back(tmp_path: Path) -> None:
    from io import BytesIO

    from PIL import Image
    from pyarrow import parquet

    one = make_set((2, 3), 24, method="mtt", seed=4, source={"name": "pets |\nx: y", "fingerprint": "ab"}, space="zca",
                   recipe={"protocol": "dsa", "lr": 0.02}, soft_labels={"teacher": "teacher.safetensors"})  # fmt: skip
    one.extras = {"soft_logits": torch.randn(5, 2).half(), "trained_images": torch.randn(5, 3, 24, 24)}
    one.whitening = ZCA.fit(one.images)
    export(one, "huggingface", tmp_path / "out")
    table = parquet.read_table(tmp_path / "out" / "data" / "train-00000-of-00001.parquet")
    assert table.column("label").to_pylist() == one.labels.tolist()
    for row, image in zip(table.column("image").to_pylist(), one.images, strict=True):
        assert np.array_equal(np.array(Image.open(BytesIO(row["bytes"]))), image.numpy())
    logits = torch.tensor(np.stack(table.column("soft_logits").to_pylist()))
    assert torch.equal(logits.half(), one.extras["soft_logits"])
    card = (tmp_path / "out" / "README.md").read_text()
    for tag in ("dataset-distillation", "dataset-compression", "ipc-3", "n<1K"):
        assert f"- {tag}\n" in card
    lines = card.splitlines()
    assert "license: unknown" in lines[1:4]
    assert "| source | pets / x: y, fingerprint ab |" in lines  # names from outside end no line
    assert "| recipe for students | protocol dsa, lr 0.02 |" in lines
    for part in ("Licence: not stated yet", "Matching Training Trajectories, CVPR 2022", 'load_dataset("USER/NAME"',
                 "whitening.safetensors", "`trained_images` in `extras.safetensors`"):  # fmt: skip
        assert part in card, part
    manifest = read_manifest(tmp_path / "out/manifest.json")
    assert (manifest["method"], manifest["seed"], manifest["storage"]["layout"]) == ("mtt", 4, "parquet")
    assert manifest["exported"] == {"to": "huggingface", "left_out": ["teacher"]}
    assert [entry["file"] for entry in manifest["images"]] == [f"{row:06d}.png" for row in range(5)]
    rows = table.column("image").to_pylist()
    assert manifest["bytes"]["images"] == sum(len(row["bytes"]) for row in rows)
    tensors = load_file(tmp_path / "out/extras.safetensors")
    assert torch.equal(tensors["trained_images"], one.extras["trained_images"])
    assert torch.equal(load_file(tmp_path / "out/whitening.safetensors")["mean"], one.whitening.mean)
    with pytest.raises(ValueError, match="is an export for Hugging Face"):
        load(tmp_path / "out")


@pytest.mark.skipif(find_spec("datasets") is None, reason="needs datasets (extra huggingface)")
def test_datasets_loads_images_and_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    one = make_set((2, 3), 24)
    one.extras["soft_logits"] = torch.randn(5, 2)
    export(one, "huggingface", tmp_path / "out")
    table = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert table.features["label"].names == list(one.class_names)
    assert table["label"][:] == one.labels.tolist()
    assert np.array_equal(np.array(table[3]["image"]), one.images[3].numpy())
    torch.testing.assert_close(torch.tensor(table[1]["soft_logits"]), one.extras["soft_logits"][1].half().float())


def test_export_from_a_folder_and_wrong_targets(tmp_path: Path) -> None:
    make_set().save(tmp_path / "set", lossless=True)
    export(tmp_path / "set", "imagefolder", tmp_path / "out")
    with pytest.raises(FileExistsError, match="choose another"):
        export(tmp_path / "set", "imagefolder", tmp_path / "out")
    with pytest.raises(ValueError, match="to: got 'zip', expected one of ddranking, huggingface, imagefolder, mtt"):
        export(tmp_path / "set", "zip", tmp_path / "other")
    for to, option, words in (
        ("imagefolder", "quality", "quality: 'imagefolder' has no such option; expected jpeg"),
        ("huggingface", "jpeg", "jpeg: 'huggingface' has no such option; it is of 'imagefolder'"),
        ("imagefolder", "dataset", "dataset: 'imagefolder' has no such option; it is of 'ddranking'"),
    ):
        with pytest.raises(TypeError, match=words):
            export(tmp_path / "set", to, tmp_path / "other", **{option: 3})


def test_dataloader_normalises_as_the_manifest_says(tmp_path: Path) -> None:
    make_set(side=20).save(tmp_path / "set", lossless=True)
    one = load(tmp_path / "set")
    loader = one.dataloader(4, augment=False, shuffle=False)
    assert isinstance(loader, DataLoader)
    parts = list(loader)
    assert [len(labels) for _, labels in parts] == [4, 2]
    images, labels = (torch.cat(values) for values in zip(*parts, strict=True))
    assert torch.equal(labels, one.labels)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (NORM.mean, NORM.std))
    expected = ((one.images.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(images.double(), expected, rtol=1e-5, atol=1e-5)
    single, label = loader.dataset[3]
    assert torch.equal(single, images[3])
    assert int(label) == int(labels[3])


def test_dataloader_augments_by_the_recipe() -> None:
    plain = make_set(config={"factor": 2})
    torch.manual_seed(0)
    first, _ = next(iter(plain.dataloader(6, shuffle=False)))
    second, _ = next(iter(plain.dataloader(6, shuffle=False)))
    assert first.shape == (6, 3, 32, 32)
    assert torch.isfinite(first).all()
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(next(iter(plain.dataloader(6, shuffle=False)))[0], first)
    assert recipe_of(plain.manifest) == {"flip": True, "shift": 0, "scale": (0.5, 1.0)}
    assert recipe_of({"source": {"name": "mnist5k"}}) == {"flip": False, "shift": 2, "scale": None}
    assert recipe_of({"recipe": {"flip": False, "shift": 3}}) == {"flip": False, "shift": 3, "scale": None}
    plainly = {"flip": False, "shift": 0, "scale": None}
    digits = {"source": {"name": "mnist5k"}}
    for named in ({"dsa": ""}, {"dsa": "color_crop"}, {"augment": "color_cutout"}):  # recipes without flips
        assert recipe_of({"recipe": named}) == recipe_of({"recipe": named, **digits}) == plainly
    assert recipe_of({"recipe": {"dsa": "color_flip"}}) == {**plainly, "flip": True}
    for named in ({"dsa": "color_flip"}, {"flip": True}):
        assert not recipe_of({"recipe": named, **digits})["flip"], "a mirrored digit is another one"


def test_shift_and_flip_move_pixels_without_inventing_any() -> None:
    one = make_set((1,), 8, recipe={"flip": True, "shift": 3})
    seen = set()
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (NORM.mean, NORM.std))
    for _ in range(60):
        image = (next(iter(one.dataloader(1)))[0][0] * std + mean) * 255
        moved = image.round().to(torch.uint8).permute(1, 2, 0)
        found = [
            (flip, down, right)
            for flip in (False, True)
            for down in range(-3, 4)
            for right in range(-3, 4)
            if torch.equal(moved, _shifted(one.images[0].flip(1) if flip else one.images[0], down, right))
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 25


def _shifted(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    padded = torch.nn.functional.pad(image, (0, 0, 3, 3, 3, 3))
    return padded[3 - down : 11 - down, 3 - right : 11 - right]


def test_dataloader_works_with_workers_and_refuses_nonsense() -> None:
    one = make_set()
    labels = torch.cat([y for _, y in one.dataloader(2, num_workers=1, shuffle=True)])
    assert sorted(labels.tolist()) == sorted(one.labels.tolist())
    with pytest.raises(ValueError, match="batch_size: got 0"):
        one.dataloader(0)
    with pytest.raises(ValueError, match="empty set"):
        DistilledSet(one.images[:0], one.labels[:0], ("a",)).dataloader(2)
    bare = DistilledSet(one.images, one.labels, one.class_names)
    image = bare.dataloader(1, augment=False, shuffle=False).dataset[0][0]
    expected = (one.images[0, 0, 0, 0].double() / 255 - IMAGENET.mean[0]) / IMAGENET.std[0]
    assert float(image[0, 0, 0]) == pytest.approx(float(expected), abs=1e-5)
