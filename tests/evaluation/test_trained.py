"""Sets of matching methods are judged on the images as they were trained, in their space, with their learned rate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast.data.space import Space
from ddfast.data.whitening import ZCA
from ddfast.evaluation import EvaluationConfig, evaluate
from ddfast.evaluation.plan import Plan, Spec, Subject
from ddfast.evaluation.protocols import full_config
from ddfast.evaluation.recipes import default_student, named_recipe, short_recipe, short_stage
from ddfast.evaluation.storage import measure
from ddfast.evaluation.usage import used
from ddfast.store import DistilledSet, load
from ddfast.train import StudentConfig, train_student
from ddfast.train.dsa import DIGITS, STRATEGY
from ddfast.train.presets import Case
from tests.evaluation import eval_case

SETTINGS: dict[str, Any] = {
    **eval_case.SETTINGS, "preset": "dsa", "epochs": 4, "controls": True, "byte_control": False, "students": "conv3",
}  # fmt: skip
RECIPE = {"protocol": "dsa", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "dsa": "color_crop_flip"}


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
    made = trained_set(False)
    judged = evaluate(made, **given, **{**SETTINGS, "preset": "smoke", "controls": False})
    assert judged.top1()["mean"] < 0.5
    made.manifest["recipe"] = RECIPE
    judged = evaluate(made, **given, **{**SETTINGS, "preset": "hard_label", "controls": False})
    assert judged.top1()["mean"] < 0.5


def test_smoke_takes_the_recipe_that_the_manifest_names() -> None:
    made = trained_set(True)
    made.manifest |= {"recipe": RECIPE, "config": {"depth": 2, "norm": "group"}}
    given = {"train": eval_case.source(20, 1), "val": eval_case.source(15, 2)}
    settings = {**SETTINGS, "preset": "smoke", "epochs": 40, "full_data": False, "ars": False, "seeds": 1}
    del settings["students"]
    judged = evaluate(made, **given, **{**settings, "byte_control": True})
    assert judged.report["students"][0]["name"] == "conv2_group"
    assert judged.report["sets"][0]["recipe"] == "dsa"
    assert judged.top1()["mean"] > 0.5  # of three classes, from grey visible pixels
    rows = {row["images"]: row for row in judged.report["results"]}
    recipe = rows["distilled"]["recipe"]
    assert [recipe[name] for name in ("lr", "weight_decay", "dsa", "optimizer", "milestones", "cutmix_alpha")] == [
        0.05, 1e-3, "color_crop_flip", "sgd", [20], 0.0,
    ]  # fmt: skip
    assert rows["random-images"]["recipe"]["lr"] == 0.01
    # floats and the rate count, the grey pictures do not: four bytes a channel, on which real pictures take one or less
    assert rows["distilled"]["bytes"] == 12 * 16 * 16 * 3 * 4 + 4
    assert rows["random-bytes"]["bytes"] <= rows["distilled"]["bytes"]
    assert rows["random-bytes"]["image_count"] > 40


@pytest.mark.parametrize(("trained", "size"), [(True, 4 * 768 * 12 + 4), (False, 768 * 12 + 4)])
def test_only_the_images_that_students_use_count(tmp_path: Path, trained: bool, size: int) -> None:
    made = load(trained_set(False).save(tmp_path / "set", format="safetensors"))
    whole = measure(made, None)
    assert whole.total == 5 * 768 * 12 + 4 + 8 * 12  # both, the rate and labels
    found = used(whole, made, trained=trained)
    assert found.total == size + 8 * 12
    assert sum(found.per_class) == found.images == size - 4
    assert used(measure(eval_case.small_set(), None), eval_case.small_set(), trained=False) == measure(
        eval_case.small_set(), None
    )


@pytest.mark.parametrize("source", ["mnist5k", "cifar10"])
def test_digits_are_not_mirrored(source: str) -> None:
    digits = source == "mnist5k"
    made = eval_case.small_set(
        source={"name": source}, recipe={"protocol": "idc", "augment": "color_flip", "cutmix": 0.7}
    )
    subject = Subject("a", "a", made, measure(made, None), None, ())
    unused: Any = None
    recipes = {}
    for name in ("smoke", "rded", "fkd", "hard_label", "dsa", "idc"):
        plan = Plan(EvaluationConfig(preset=name), (subject,), ("conv3",), unused, None, "cpu", 1, 0)
        recipes[name] = plan.recipe(Spec("a", "distilled", "hard", True, "conv3", 0))
    assert [recipes[name].flip for name in ("rded", "fkd", "hard_label")] == [not digits] * 3
    assert recipes["dsa"].dsa == (DIGITS if digits else STRATEGY)
    assert ("flip" in recipes["idc"].idc, recipes["idc"].cutmix_share) == ((False, 0.0) if digits else (True, 0.5))
    assert (recipes["smoke"].idc, recipes["smoke"].cutmix_share) == (("color", 0.0) if digits else ("color_flip", 0.7))
    assert full_config(EvaluationConfig(), 100, 0, digits=digits).flip is not digits


def test_a_short_recipe_keeps_its_shape() -> None:
    case = Case("conv3", 10, 40)
    dsa = short_recipe(case, {"recipe": {"protocol": "dsa", "dsa": ""}})
    assert (dsa.epochs, dsa.milestones, dsa.dsa, dsa.lr) == (10, (5,), "", 0.01)
    idc = short_recipe(case, {"recipe": {"protocol": "idc", "lr": 0.1, "cutmix": 1.0}})
    assert (idc.epochs, idc.milestones, idc.lr, idc.cutmix_share) == (10, (7, 8), 0.1, 1.0)
    assert short_stage(case, [200, 400], {"recipe": {"protocol": "dsa"}}).epochs == 6
    names = [default_student(p, [{}, {"recipe": RECIPE}]) for p in ("smoke", "dsa", "rded")]
    assert names == ["conv3_instance", "conv3_instance", "conv3"]


def test_dc_is_judged_as_its_paper_judges() -> None:
    """300 epochs without augmentation, on the images as they were trained."""
    made = trained_set(False)
    made.manifest |= {"method": "dc", "recipe": {**RECIPE, "lr": 0.01, "dsa": ""}}
    manifest = made.manifest
    assert named_recipe([manifest, {}]) == "dc"
    assert default_student("dc", [manifest]) == "conv3_instance"
    others = [{**manifest, "method": "dsa"}, {**manifest, "recipe": RECIPE}]  # DC with augmentation: as DSA
    assert [named_recipe([one]) for one in others] == ["dsa", "dsa"]
    with pytest.raises(ValueError, match="different recipes, dc, dsa"):
        named_recipe([manifest, others[0]])
    short = short_recipe(Case("conv3", 10, 40), manifest)
    assert (short.epochs, short.milestones, short.dsa, short.lr) == (10, (5,), "", 0.01)
    given = {"train": eval_case.source(20, 1), "val": eval_case.source(15, 2)}
    judged = evaluate(made, **given, **{**SETTINGS, "preset": None, "epochs": 20, "controls": False})
    assert judged.report["protocol"]["name"] == judged.report["sets"][0]["recipe"] == "dc"
    assert judged.top1()["mean"] > 0.6  # of three classes, from grey visible pixels
    unused: Any = None
    subject = Subject("a", "a", made, measure(made, None), None, ())
    plan = Plan(EvaluationConfig(preset="dc"), (subject,), ("conv3",), unused, None, "cpu", 1, 0)
    for images in ("distilled", "random-images"):
        recipe = plan.recipe(Spec("a", images, "hard", True, "conv3", 0))
        assert (recipe.epochs, recipe.milestones, recipe.lr, recipe.weight_decay) == (301, (152,), 0.01, 5e-4)
        assert (recipe.dsa, recipe.flip, recipe.shift, recipe.crop, recipe.cutmix_alpha) == ("", False, 0, None, 0.0)


def test_whitening_needs_the_real_set() -> None:
    with pytest.raises(ValueError, match=r"train: the set's images are whitened \(ZCA\)"):
        evaluate(trained_set(True), val=eval_case.source(15, 2), **{**SETTINGS, "controls": False})


def test_a_set_that_holds_its_whitening_needs_no_real_set(tmp_path: Path) -> None:
    made, train, val = trained_set(True), eval_case.source(20, 1), eval_case.source(15, 2)
    made.whitening = ZCA.fit(torch.from_numpy(eval_case.pictures(20, 1)[0]))
    made.save(tmp_path / "set", format="safetensors")
    settings = {**SETTINGS, "controls": False}
    alone = evaluate(tmp_path / "set", val=val, **settings)
    made.whitening = None
    assert alone.top1() == evaluate(made, train=train, val=val, **settings).top1()
    note = next(note for note in alone.report["notes"] if "whitened" in note)
    assert f"take {(768**2 + 768) * 4 / 1000:,.0f} kB and are not counted as storage" in note
    assert alone.report["results"][0]["bytes"] == 12 * 768 * 4 + 4 + 8 * 12


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
