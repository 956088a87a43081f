"""Sets of matching methods are judged on the images as they were trained, in their space, with their learned rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast.data.space import Space
from ddfast.evaluation import evaluate
from ddfast.store import DistilledSet
from ddfast.train import StudentConfig, train_student
from tests.evaluation import eval_case

SETTINGS: dict[str, Any] = {**eval_case.SETTINGS, "preset": "dsa", "epochs": 4, "controls": True, "byte_control": False}


def trained_set(zca: bool) -> DistilledSet:
    """Visible pixels that teach nothing; what was trained teaches the classes."""
    images, labels = eval_case.pictures(4, 7, noise=20.0)
    train, _ = eval_case.pictures(20, 1)
    space = Space.of("colours", torch.from_numpy(train), zca=zca)
    extras = {"trained_images": space.apply(torch.from_numpy(images)), "lr": torch.tensor([0.05])}
    manifest = {"space": "zca" if zca else "normalized", "lr": 0.05, "method": "mtt"}
    grey = torch.full((12, 16, 16, 3), 128, dtype=torch.uint8)
    return DistilledSet(grey, torch.from_numpy(labels), eval_case.NAMES, manifest, extras)


@pytest.mark.parametrize("zca", [True, False])
def test_students_learn_from_the_trained_images(zca: bool) -> None:
    given = {"train": eval_case.source(20, 1), "val": eval_case.source(15, 2)}
    judged = evaluate(trained_set(zca), **given, **{**SETTINGS, "epochs": 20})
    assert judged.top1()["mean"] > 0.6  # of three classes
    recipes = {row["images"]: row["recipe"] for row in judged.report["results"]}
    assert recipes["distilled"]["lr"] == 0.05
    assert recipes["random-images"]["lr"] == 0.01


def test_other_presets_take_the_visible_pixels() -> None:
    given = {"train": eval_case.source(20, 1), "val": eval_case.source(15, 2)}
    judged = evaluate(trained_set(False), **given, **{**SETTINGS, "preset": "smoke", "controls": False})
    assert judged.top1()["mean"] < 0.5


def test_whitening_needs_the_real_set() -> None:
    with pytest.raises(ValueError, match=r"train: the set's images are whitened \(ZCA\)"):
        evaluate(trained_set(True), val=eval_case.source(15, 2), **{**SETTINGS, "controls": False})


def test_a_saved_set_is_judged_alike(tmp_path: Path) -> None:
    given = {"train": eval_case.source(20, 1), "val": eval_case.source(15, 2)}
    made = trained_set(False)
    made.save(tmp_path / "set", format="safetensors")
    results = [evaluate(one, **given, **{**SETTINGS, "controls": False}).top1() for one in (made, tmp_path / "set")]
    assert results[0] == results[1]


def test_model_input_has_no_views() -> None:
    x, y = torch.randn(4, 3, 8, 8), torch.arange(4) % 2
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2))
    with pytest.raises(ValueError, match=r"has no views, with flip, cutmix_alpha; expected uint8"):
        train_student(x, y, student, None, StudentConfig(epochs=1))
    plain = StudentConfig(epochs=1, flip=False, cutmix_alpha=0.0, batch_size=4, dsa="flip")
    assert len(train_student(x, y, student, None, plain).losses) == 1
    with pytest.raises(TypeError, match=r"images: got torch.float32 \[4, 8, 8, 3\]"):
        train_student(x.permute(0, 2, 3, 1), y, student, None, plain)
