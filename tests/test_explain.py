"""What `ddfast explain` says of sets, labels and exports, and that what it tells people to run, runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ddfast
from ddfast.cli import main
from ddfast.evaluation.explain import Explanation, explain
from ddfast.evaluation.explain.methods import ABOUT
from ddfast.methods import method_names
from ddfast.store import DistilledSet, LabelStore, set_fingerprint

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
    for part in ("4 images of 2 classes (cat, dog), 2 per class", "16 x 16 pixels", "A mosaic has 2 x 2 patches",
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


@pytest.mark.parametrize("staged", [False, True])
def test_the_code_runs(tmp_path: Path, staged: bool) -> None:
    more: dict[str, Any] = {"stages": [0, 1, 0, 1], "stage_lrs": [0.02, 0.01]} if staged else {}
    code = explain(saved(tmp_path / "set", method="mtt", recipe={"protocol": "dsa", "lr": 0.02}, **more)).code
    scope: dict[str, Any] = {}
    exec(code.replace("range(1000)", "range(1)").replace("range(500)", "range(1)"), scope)
    assert scope["optimiser"].param_groups[0]["lr"] == (0.01 if staged else 0.02)


def test_labels(tmp_path: Path) -> None:
    made = DistilledSet.load(saved(tmp_path / "set", method="rded"))
    known = {"set": set_fingerprint(made.images, made.labels), "view": None, "teachers": ["cd" * 32], "seed": None}
    store = LabelStore.create(tmp_path / "labels", samples=4, classes=2, fingerprint=known)
    store.write(0, range(4), torch.zeros(4, 2))
    found = explain(tmp_path / "labels")
    assert "all logits of 2 classes for 4 images, one label an image" in words(found)
    assert "weights with SHA-256 cdcdcdcdcdcd" in words(found)
    exec(found.code.replace("'SET'", repr(str(tmp_path / "set"))), {})
    LabelStore.create(
        tmp_path / "views", samples=4, classes=2, epochs=3, fingerprint={**known, "view": {"mix": "none"}}
    )
    assert any("3 epochs are not labelled" in line for line in explain(tmp_path / "views").warnings)


def test_what_comes_from_outside_is_printed_without_commands_for_terminals(tmp_path: Path) -> None:
    observer = {"name": "x\x1b[2J", "weights": "w", "class_check": [1]}
    blocks = [3, {"decoder": "small"}]
    folder = saved(
        tmp_path / "set", method="\x07", observer=observer, distribution={"storage": "fp16", "blocks": blocks}
    )
    text = explain(folder).text()
    assert "x?[2J" in text
    assert "\x1b" not in text
    assert "\x07" not in text


@pytest.mark.parametrize("layout", ["imagefolder", "mtt"])
def test_exports_name_what_is_missing(tmp_path: Path, layout: str) -> None:
    made = DistilledSet.load(saved(tmp_path / "set", method="dm"))
    found = explain(made.export(layout, tmp_path / "out"))
    assert (found.kind, found.facts["layout"]) == ("export", layout)
    assert "recipe" in found.missing[0]
    exec(found.code, {})


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
