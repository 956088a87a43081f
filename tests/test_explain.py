"""What `ddfast explain` says of sets, labels and exports, and that what it tells people to run, runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch

import ddfast
from ddfast.cli import main
from ddfast.data.whitening import ZCA
from ddfast.evaluation.explain import Explanation, explain
from ddfast.evaluation.explain.methods import ABOUT
from ddfast.methods import method_names
from ddfast.store import DistilledSet, LabelStore, set_fingerprint
from ddfast.store.export import export
from ddfast.train.latent import Distribution
from ddfast.train.views import ViewConfig
from tests.train.label_helpers import teacher
from tests.train.latent_case import stored, tiny_block

NAMES = ("cat", "dog")


def saved(folder: Path, *, extras: dict[str, torch.Tensor] | None = None, **manifest: Any) -> Path:
    images = torch.randint(0, 256, (4, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    known = {"source": {"name": "pets", "fingerprint": "ab" * 32}, "seed": 7, **manifest}
    if "method" in known and "normalization" not in known:
        known["normalization"] = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}
    made = DistilledSet(images, torch.tensor([0, 0, 1, 1]), NAMES, known, extras or {})
    return made.save(folder, format="safetensors" if extras else "folder")


def words(found: Explanation) -> str:
    return " ".join(found.text().split())


def test_every_method_has_a_sentence(tmp_path: Path) -> None:
    assert set(ABOUT) >= set(method_names())
    for name in method_names():
        found = explain(saved(tmp_path / name, method=name))
        assert ABOUT[name].sentence in words(found)
        assert ABOUT[name].paper in words(found)
        assert not found.missing


def test_a_mosaic_set(tmp_path: Path) -> None:
    observer = {"name": "conv3", "weights": "trained on pets for 6 epochs", "random_weights": True,
                "class_check": {"top1": 0.5, "images": 80, "judged": True}}  # fmt: skip
    failures = [{"label": 0, "sample": "cat/3.jpg", "reason": "cut short"}]
    folder = saved(
        tmp_path / "my set", method="rded", preset="smoke", observer=observer, failures=failures,
        config={"factor": 2, "num_crop": 5, "mipc": 100},
    )  # fmt: skip
    found = explain(folder)
    text = words(found)
    for part in ("4 images of 2 classes (cat, dog), 2 per class", "16 x 16 pixels",
                 "A mosaic has 2 x 2 patches, chosen from 5 crops of each of up to 100 pictures per class.",
                 "Made from pets (fingerprint abababababab). Preset smoke. Seed 7.", "right on 50.0 % of 80 pictures",
                 "mean (0.5, 0.5, 0.5)", "jpeg files", "the recipe rded", "ddfast 0.", "numpy"):  # fmt: skip
        assert part in text, part
    assert found.command == f"ddfast evaluate '{folder}' --preset smoke --data TEST_PICTURES --train REAL_PICTURES"
    assert "The recipe smoke is a shorter one" in text
    assert "# the plainest loop, not the recipe above" in found.code
    assert [line.split()[0:3] for line in found.warnings[:2]] == [["The", "observer", "had"], ["The", "observer", "is"]]
    assert any("cat/3.jpg" in line for line in found.warnings)
    assert found.facts["bytes"]["images"] == sum(path.stat().st_size for path in folder.rglob("*.jpg"))
    (folder / "00000" / "class00000_id00000.jpg").unlink()
    assert any("Not here: 1 file" in line for line in explain(folder).warnings)


def test_stages_decoding_whitening_and_soft_labels(tmp_path: Path) -> None:
    extras = {"trained_images": torch.zeros(4, 3, 16, 16), "soft_logits": torch.zeros(4, 2)}
    found = explain(
        saved(
            tmp_path / "set", extras=extras, method="pdd", config={"base": "mtt"}, stages=[0, 1, 0, 1],
            stage_lrs=[0.02, 0.01], stage_momentum="carried", space="zca",
            formation={"factor": 2, "kind": "single", "cap": 128},
            recipe={"protocol": "dsa", "lr": 0.01, "dsa": "color_crop", "weight_decay": 5e-4},
        )
    )  # fmt: skip
    text = words(found)
    for part in ("2 stages of 2, 2 images", "at the rates 0.02, 0.01", "Within a stage (mtt): the images were trained",
                 "whitened (ZCA", "decoded into 4 (2 x 2 tiles", "tensor soft_logits", "the recipe dsa",
                 "lr 0.01, weight_decay 0.0005, augmentation color_crop",
                 "other tensors (soft_logits, trained_images)"):  # fmt: skip
        assert part in text, part
    assert "--preset dsa" in found.command
    assert found.facts["stages"] == 2
    assert found.facts["tensors"] == {"soft_logits": [4, 2], "trained_images": [4, 3, 16, 16]}


def test_a_distribution(tmp_path: Path) -> None:
    blocks = [{"decoder": {"kind": "small"}, "classes": [0, 1], "rows": 4, "batch": None}]
    extras = {"latents.0": torch.zeros(4, 3), "decoder.0.first.weight": torch.zeros(2, 2)}
    found = explain(
        saved(
            tmp_path / "set", extras=extras, method="d3", distribution={"storage": "fp16", "blocks": blocks},
            recipe={"protocol": "d3"}, source={"name": "mnist5k", "fingerprint": "00" * 32},
        )
    )  # fmt: skip
    assert "1 block of classes, decoder small; students train on the means and on fresh samples" in words(found)
    assert "other tensors (decoder, latents)" in words(found)
    assert found.command.endswith("--preset d3")  # the source is built in


def run(code: str) -> dict[str, Any]:
    """What the code defines, each training cut down to one epoch."""
    scope: dict[str, Any] = {}
    exec(re.sub(r"in range\((?:\d+|data\.epochs)\)", "in range(1)", code), scope)
    return scope


DSA = {"protocol": "dsa", "lr": 0.02, "dsa": "color_crop_flip", "weight_decay": 1e-3}
DIGITS = {"name": "mnist5k", "fingerprint": "00" * 32}
STAGES = {"stages": [0, 1, 0, 1], "stage_lrs": [0.02, 0.01]}
KINDS: dict[str, tuple[dict[str, Any], bool, tuple[str, ...]]] = {  # manifest, trained images, parts of the code
    "mosaic": ({"method": "rded", "config": {"factor": 2}}, False, ("dataloader(batch_size=50)", "not the recipe")),
    "dc": ({"method": "dc", "recipe": {**DSA, "dsa": ""}}, True, ("range(300)", "augment=False", "normalised")),
    "dsa": ({"method": "dsa", "recipe": DSA}, True, ("apply_dsa", "'color_crop_flip'", "weight_decay=0.001")),
    "digits": ({"method": "dsa", "recipe": DSA, "source": DIGITS}, True, ("apply_dsa", "'color_crop'")),
    "staged": ({"method": "pdd", "recipe": DSA, **STAGES}, True, ("stage=stage)", "seed=stage")),
    "staged mosaics": ({"method": "pdd", **STAGES}, False, ("stage=stage)",)),
    "idc": ({"method": "idc", "recipe": {"protocol": "idc", "augment": "color_crop"}, "formation": {"factor": 2,
            "kind": "single", "cap": 128}}, False, ("apply_idc", "conv3_instance")),
    "zca": ({"method": "mtt", "recipe": DSA, "space": "zca"}, True, ("whitened", "lr=0.02", "data.whitening.apply")),
    "zca, staged": ({"method": "pdd", "recipe": DSA, "space": "zca", **STAGES}, True, ("data.whitening.apply",)),
    "zca, without its whitening": ({"method": "mtt", "recipe": DSA, "space": "zca"}, True, ("ZCA.fit(real)",)),
    "zca, without what was trained": ({"method": "mtt", "recipe": DSA, "space": "zca"}, False, ("lr=0.01", "not here")),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_code_of_every_kind_of_set_runs(tmp_path: Path, kind: str) -> None:
    manifest, trained, parts = KINDS[kind]
    real = torch.randint(0, 256, (9, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    extras = {"trained_images": torch.randn(4, 3, 16, 16)} if trained else {}
    folder = saved(tmp_path / "set", extras=extras, **{"space": "normalized", **manifest} if trained else manifest)
    if kind in ("zca", "zca, staged"):
        made = DistilledSet.load(folder)
        made.whitening = ZCA.fit(real)
        folder = made.save(tmp_path / "white", format="safetensors")
        assert "not counted, the whitening: 2.3" in words(explain(folder))
    code = explain(folder).code
    for part in parts:
        assert part in code, part
    scope = run(code)
    images = scope["images"] if "apply_" not in code else scope["data"].trained_images
    if trained:
        assert any(torch.equal(images[0], each) for each in extras["trained_images"])
    assert scope["optimiser"].param_groups[0]["lr"] == (0.01 if "staged" in kind or "lr=0.01" in code else 0.02)
    assert ("predicted" in scope) == (manifest.get("space") == "zca" and trained)
    if "predicted" in scope:
        assert scope["predicted"](*((real,) if "data.whitening.apply" in code else (real[:5], real))).shape[0] in (5, 9)


@pytest.mark.parametrize("soft", [False, True])
def test_the_code_of_a_distribution_runs(tmp_path: Path, soft: bool) -> None:
    extras = {"soft_logits": torch.zeros(8, 8)} if soft else {}
    made = stored(Distribution([tiny_block()]), **extras)
    made.manifest |= {"method": "d3", "recipe": {"protocol": "d3", "dsa": "crop"}}
    code = explain(made.save(tmp_path / "set", format="safetensors")).code
    assert "distribution.samples(seed=0, epoch=epoch)" in code
    assert ("softmax" in code) == soft
    scope = run(code)
    assert len(scope["pictures"]) == 2 * len(scope["data"])
    assert scope["optimiser"].param_groups[0]["lr"] == pytest.approx(0.0501)  # its program's, with the small decoder


def test_labels(tmp_path: Path) -> None:
    made = DistilledSet.load(saved(tmp_path / "set", method="rded"))
    known = {"set": set_fingerprint(made.images, made.labels), "view": None, "teachers": ["cd" * 32], "seed": None}
    store = LabelStore.create(tmp_path / "labels", samples=4, classes=2, fingerprint=known)
    store.write(0, range(4), torch.zeros(4, 2))
    found = explain(tmp_path / "labels")
    assert "all logits of 2 classes for 4 images, one label an image" in words(found)
    assert "weights with SHA-256 cdcdcdcdcdcd" in words(found)
    run(found.code.replace("'SET'", repr(str(tmp_path / "set"))))
    LabelStore.create(
        tmp_path / "views", samples=4, classes=2, epochs=3, fingerprint={**known, "view": {"mix": "none"}}
    )
    assert any("3 epochs are not labelled" in line for line in explain(tmp_path / "views").warnings)


def test_the_code_of_labels_of_views_runs(tmp_path: Path) -> None:
    made = DistilledSet.load(
        saved(tmp_path / "set", method="idc", formation={"factor": 2, "kind": "single", "cap": 128})
    )
    view = ViewConfig((16, 16), flip=True)
    ddfast.relabel(
        made.decoded(), [teacher(classes=2)], tmp_path / "views", view=view, seed=0, epochs=1, batch_size=8,
        progress="quiet",
    )  # fmt: skip
    scope = run(explain(tmp_path / "views").code.replace("'SET'", repr(str(tmp_path / "set"))))
    assert scope["logits"].shape == (8, 2), "pictures of decoded images"


def test_what_comes_from_outside_is_printed_without_commands_for_terminals(tmp_path: Path) -> None:
    observer = {"name": "x\x1b[2J", "weights": "w", "class_check": [1]}
    blocks = [3, {"decoder": "small"}]
    folder = saved(
        tmp_path / "set", method="\x07", observer=observer, distribution={"storage": "fp16", "blocks": blocks}
    )
    text = explain(folder).text()
    assert "x\\x1b[2J" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("space", ["normalized", "zca"])
@pytest.mark.parametrize("layout", ["imagefolder", "mtt", "huggingface"])
def test_exports_say_how_they_are_read(
    tmp_path: Path, layout: str, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if layout == "huggingface":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
        pytest.importorskip("pyarrow", reason="needs pyarrow (extra huggingface)")
        pytest.importorskip("datasets", reason="needs datasets (extra huggingface)")
    extras = {"trained_images": torch.randn(4, 3, 16, 16)}
    made = DistilledSet.load(saved(tmp_path / "set", method="mtt", extras=extras, space=space, recipe=DSA))
    if space == "zca":
        made.whitening = ZCA.fit(made.images)
    found = explain(made.export(layout, tmp_path / "out"))
    assert (found.kind, found.facts["layout"]) == ("export", layout)
    scope = run(found.code)
    if layout == "mtt":
        assert "recipe" in found.missing[0]
        if space == "zca":
            white = scope["whitened"](made.images.permute(0, 3, 1, 2) / 255)
            torch.testing.assert_close(white, made.whitening.apply(made.images), rtol=1e-4, atol=1e-4)
        return
    assert ABOUT["mtt"].sentence in words(found)
    assert len(scope["train"]) == 4
    if layout == "imagefolder":
        assert "trained_images" in found.missing[0]
        assert any("distilled whitened; train on the set itself" in line for line in found.warnings) == (space == "zca")
        image, _ = scope["train"][0]
        torch.testing.assert_close(image, (made.images[0].permute(2, 0, 1) / 255 - 0.5) / 0.25)
    else:
        assert found.command == ""
        with pytest.raises(ValueError, match=r"is an export for Hugging Face; read it with datasets\.load_dataset"):
            ddfast.load(tmp_path / "out")


def test_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "set")
    assert explain(folder).missing == ["the method", "the normalisation (ddfast takes ImageNet's)"]
    (folder / "manifest.json").unlink()
    bare = explain(folder)
    assert "2 per class" in words(bare)
    (tmp_path / "few/a").mkdir(parents=True)
    (tmp_path / "few/b").mkdir()
    (tmp_path / "few/b/0.jpg").write_bytes(b"")
    few = explain(tmp_path / "few")
    assert "0 to 1 per class" in words(few)
    assert few.warnings == ["1 class without pictures, such as a."]
    assert (bare.kind, bare.facts["images"], bare.facts["ipc"]) == ("image folder", 4, 2)
    assert "there is no manifest.json" in bare.missing[0]
    (folder / "run.json").write_text("{}")
    assert explain(folder).kind == "unfinished run"
    (folder / "report.json").write_text("{}")
    assert explain(folder).kind == "report of an evaluation"
    (tmp_path / "empty").mkdir()
    for wrong in ("empty", "nowhere"):
        assert main(["explain", str(tmp_path / wrong)]) == 1
        assert wrong in capsys.readouterr().err


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "set", method="dm", recipe={"protocol": "dsa"})
    assert ddfast.explain(folder).facts["method"] == "dm"
    assert main(["explain", str(folder)]) == 0
    assert "Judge it:" in capsys.readouterr().out
    assert main(["explain", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["method"], document["recipe"], document["classes"]) == ("dm", "dsa", 2)


def test_damaged_and_wrong_paths_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", extras={"trained_images": torch.zeros(4, 3, 16, 16)})
    path = folder / "images.safetensors"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"images\.safetensors: damaged, its head is no JSON .* copy the set anew"):
        explain(folder)
    with pytest.raises(FileNotFoundError, match=r"images\.safetensors: is a file, expected the folder"):
        explain(path)


def test_paths_with_spaces_are_quoted_in_commands(tmp_path: Path) -> None:
    folder = saved(tmp_path / "my set", method="rded")
    export(folder, "imagefolder", tmp_path / "my pictures")
    (tmp_path / "my pictures" / "manifest.json").unlink()
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "run.json").write_text("{}")
    classes = tmp_path / "my pictures" / "train"
    for place in (folder, classes):
        assert str(place) in shlex.split(explain(place).command)
    assert f"ddfast status '{tmp_path / 'my run'}' says" in words(explain(tmp_path / "my run"))


def test_tensors_of_others_are_not_called_ours(tmp_path: Path) -> None:
    torch.save(torch.zeros(2, 3, 8, 8), tmp_path / "images_best.pt")
    text = explain(tmp_path).text()
    assert "Written by" not in text
    assert "space.json" not in text
    assert "Laid out as ddfast export --to mtt writes it." in words(explain(tmp_path))
