"""Evaluations of a distributional set (D3): rows, bytes, soft labels, controls, restarts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.evaluation import EvaluationConfig, continual, evaluate, runner
from ddfast.evaluation.cost import decoding_flops
from ddfast.evaluation.drawn import as_pictures, distribution_digest, price
from ddfast.evaluation.plan import Plan, Spec, Subject
from ddfast.evaluation.recipes import default_student
from ddfast.evaluation.storage import measure
from ddfast.evaluation.tasks import training_pictures
from ddfast.nets.convnet import ConvNet
from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.nets.described import described_bytes, read_described
from ddfast.store import DistilledSet, load
from ddfast.train.augment import normalize
from ddfast.train.latent import Distribution, LatentBlock, initial_latents
from tests.evaluation import eval_case
from tests.evaluation.eval_case import NAMES, SIDE, source

SETTINGS: dict[str, Any] = {
    "preset": "smoke", "seeds": 1, "epochs": 3, "width": 8, "curve_points": 1, "processes": 1, "device": "cpu",
    "quiet": True, "students": "conv2_instance", "full_data": False, "ars": False,
}  # fmt: skip
CONFIG = DecoderConfig("small", SIDE, z=6, kernels=8)


def drawn_set(**extras: torch.Tensor) -> DistilledSet:
    """Two blocks, of two classes and of one, with two priors a class."""
    blocks = [
        LatentBlock(
            initial_latents(len(classes), 2, 6, seed=1, stream=f"block {place}"),
            torch.tensor(classes).repeat_interleave(2), make_decoder(CONFIG, 1, f"block {place}"),
        )
        for place, classes in enumerate(([0, 1], [2]))
    ]  # fmt: skip
    made = Distribution(blocks)
    manifest = {
        "distribution": made.as_json("fp16"), "space": "normalized", "method": "d3",
        "recipe": {"protocol": "d3", "weight_decay": 5e-4, "dsa": "color_crop"},
        "config": {"depth": 2, "norm": "instance", "sampling": True},
    }  # fmt: skip
    stored = DistilledSet(
        torch.zeros(6, SIDE, SIDE, 3, dtype=torch.uint8), made.labels, NAMES, manifest,
        {**made.tensors("fp16"), **extras},
    )  # fmt: skip
    return stored


def saved(path: Path) -> Path:
    """The set as a run leaves it, with soft labels and their teacher."""
    net = ConvNet(2, 3, SIDE, width=8, norm="instance")
    folder = drawn_set(soft_logits=torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).half())
    folder.manifest["soft_labels"] = {"teacher": "teacher.safetensors", "experts": 1, "epoch": 2}
    folder.save(path, format="safetensors")
    content = described_bytes([net], norm="instance", size=SIDE, normalization=IMAGENET, class_names=NAMES)
    (path / "teacher.safetensors").write_bytes(content)
    return path


def run(distilled: Any, out: Path | None = None, **changes: Any) -> Any:
    return evaluate(distilled, source(6, 2, "test"), train=source(20, 1), out=out, **{**SETTINGS, **changes})


def without_clock(report: dict[str, Any]) -> dict[str, Any]:
    """A report without seconds and what follows from them."""
    rows = [{**row, "cost": {**row["cost"], "seconds": None, "decoding": None}} for row in report["results"]]
    return {**report, "results": rows, "tradeoff": None}


def test_students_of_a_distribution_and_its_controls_at_equal_bytes(tmp_path: Path) -> None:
    folder = saved(tmp_path / "set")
    result = run(folder, tmp_path / "out")
    report = result.report
    rows = {(row["images"], row["labels"]): row for row in report["results"]}
    pictures = ("distilled", "random-images", "random-bytes")
    assert set(rows) == {(images, labels) for images in pictures for labels in ("hard", "soft")}
    latents = 2 * 2 * 6 * 6
    decoders = 2 * 2 * CONFIG.parameters
    hard = latents + decoders + 8 * 6  # and a class of each prior
    labels = 6 * 3 * 2
    assert rows["distilled", "hard"]["bytes"] == hard
    assert rows["distilled", "soft"]["bytes"] == hard + labels
    picture = SIDE * SIDE * 3
    assert rows["random-images", "hard"]["bytes"] == 6 * picture
    assert rows["random-images", "soft"]["bytes"] == 6 * (picture + 3 * 2)
    for kind, budget, each in (("hard", hard, picture), ("soft", hard + labels, picture + 6)):
        paid = rows["random-bytes", kind]
        assert paid["image_count"] == budget // each
        assert paid["bytes"] == paid["image_count"] * each
        assert paid["label_bytes"] == (paid["image_count"] * 6 if kind == "soft" else 0)
    points = {(point["images"], point["labels"]): point for point in report["tradeoff"]}
    assert points["distilled", "hard"]["bytes"] == hard
    assert points["distilled", "soft"]["label_bytes"] == labels
    for row in report["results"]:
        own = row["images"] == "distilled"
        assert row["recipe"]["lr"] == pytest.approx(0.0501)
        assert row["recipe"]["dsa"] == "color_crop"
        views = 3 * 2 * (6 if own else row["image_count"])  # each twice an epoch
        assert row["cost"]["flops"]["student"] == 3 * views * row["cost"]["flops"]["forward"]
        assert row["cost"]["flops"]["teacher"] == 0
        cost = decoding_flops(load(folder).manifest, 4) if own else 0
        assert row["cost"]["flops"]["decoding"] == cost
        assert (0 < row["cost"]["decoding"]["share"] < 1) if own else "decoding" not in row["cost"]
    assert rows["distilled", "soft"]["cost"]["decoding"]["pictures"] == 6 * 4
    assert report["sets"][0]["recipe"] == "d3"
    assert report["sets"][0]["teacher"]["name"] == read_described(folder / "teacher.safetensors").name  # type: ignore[union-attr]
    assert any("stored too: 6 bytes" in note for note in report["notes"])


def test_labels_of_random_pictures_are_the_teachers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddfast.evaluation import drawn

    seen = []

    def spy(pictures: Any, targets: torch.Tensor, student: Any, *given: Any, **named: Any) -> Any:
        seen.append((pictures, targets))
        return train(pictures, targets, student, *given, **named)

    train = drawn.train_on_drawn
    monkeypatch.setattr(drawn, "train_on_drawn", spy)
    folder = saved(tmp_path / "set")
    run(folder, hard=False, byte_control=False, epochs=1)
    (own, own_labels), (other, other_labels) = seen
    teacher = read_described(folder / "teacher.safetensors")
    assert teacher is not None
    with torch.no_grad():
        wanted = teacher.module(other.images).half().float().softmax(1)
    assert torch.allclose(other_labels, wanted, atol=1e-6)
    assert torch.equal(own_labels, load(folder).extras["soft_logits"].float().softmax(1))
    assert own.fresh == "epoch"
    # the same pictures as a control of the plan, normalised, without rounding of ours
    subject = Subject("set", "s", load(folder), measure(load(folder), None), None, (0, 1, 2))
    unused: Any = None
    plan = Plan(EvaluationConfig(preset="smoke"), (subject,), ("conv2",), unused, source(20, 1), "cpu", 1, 0)
    pictures = training_pictures(plan, subject, Spec("set", "random-images", "soft", True, "conv2", 0))
    assert torch.equal(other.images, normalize(pictures.images, IMAGENET))


def test_without_soft_labels_the_teacher_gives_them_and_they_count(tmp_path: Path) -> None:
    made = drawn_set()
    folder = saved(tmp_path / "set")
    result = run(made, teacher=str(folder / "teacher.safetensors"), controls=False, epochs=1)
    rows = {row["labels"]: row for row in result.report["results"]}
    assert rows["soft"]["bytes"] - rows["hard"]["bytes"] == 6 * 3 * 2
    alone = run(load(folder), controls=True, byte_control=False, epochs=1)  # in memory: no file beside it
    kinds = {(row["images"], row["labels"]) for row in alone.report["results"]}
    assert kinds == {("distilled", "hard"), ("distilled", "soft"), ("random-images", "hard")}
    assert any("random pictures have no soft labels, since the set's teacher" in n for n in alone.report["notes"])


@pytest.mark.parametrize("fresh", ["batch", "none"])
def test_other_draws_and_restarts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh: str) -> None:
    folder = saved(tmp_path / "set")
    settings = {"fresh": fresh, "byte_control": False, "batch_size": 5}
    whole = run(folder, tmp_path / "whole", **settings)
    train, done = runner.run_task, []

    def cut(*args: Any) -> dict[str, Any]:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(train(*args))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(runner, "run_task", cut)
        with pytest.raises(KeyboardInterrupt):
            run(folder, tmp_path / "cut", **settings)
    again = run(folder, tmp_path / "cut", resume=True, **settings)
    assert without_clock(again.report) == without_clock(whole.report)
    row = next(row for row in whole.report["results"] if row["images"] == "distilled")
    assert row["cost"]["steps"] == 3 * (3 if fresh == "batch" else 2)
    assert row["cost"]["decoding"]["pictures"] == 6 * (9 if fresh == "batch" else 1)


def test_damage_is_named_before_any_student_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []
    monkeypatch.setattr(runner, "run_task", lambda *given: trained.append(given))
    broken = drawn_set()
    broken.extras["latents.1"][1, 2, 0] = float("nan")
    with pytest.raises(ValueError, match=r"set 2: latents\.1: holds NaN or infinity"):
        run([drawn_set(), broken], tmp_path / "out")
    assert not trained


def test_a_set_made_of_means_is_judged_by_them_and_another_recipe_takes_pictures() -> None:
    made = drawn_set()
    made.manifest["config"]["sampling"] = False
    subject = Subject("set", "s", made, measure(made, None), None, ())
    unused: Any = None
    spec = Spec("set", "distilled", "hard", True, "conv2_instance", 0)
    plans = {
        name: Plan(EvaluationConfig(preset=name), (subject,), ("conv2",), unused, None, "cpu", 1, 0)
        for name in ("smoke", "d3", "rded")
    }
    assert [plan.drawn(subject) for plan in plans.values()] == [True, True, False]
    assert plans["d3"].pictures_of_epoch(subject) == 6
    whole = plans["d3"].recipe(spec)
    assert (whole.epochs, whole.batch_size, whole.milestones, whole.lr) == (2001, 6, (1002,), pytest.approx(0.0501))
    assert plans["d3"].recipe(replace(spec, student="resnet18_instance")).lr == pytest.approx(0.0501)
    for kind, rate in (("medium", 0.0014), ("large", 0.005)):
        blocks = made.manifest["distribution"]["blocks"]
        blocks[0]["decoder"] = DecoderConfig(kind, 32).as_json()
        for student in ("resnet18_instance", "resnetap18"):
            assert plans["d3"].recipe(replace(spec, student=student)).lr == pytest.approx(rate + 1e-4)
    assert default_student("smoke", [made.manifest]) == "conv2_instance"
    assert price(subject, "soft", drawn=True).label == 6
    with pytest.raises(ValueError, match=r"fresh: got 'often', expected one of epoch, batch, none"):
        EvaluationConfig(fresh="often")


def test_continual_takes_the_means_as_pictures() -> None:
    made = drawn_set()
    assert as_pictures(made).manifest.keys() == {"space", "method", "config"}
    assert as_pictures(made).extras == {}
    result = continual(
        made, source(2, 2, "test"), steps=2, orders=1, seeds=1, epochs=1, width=8, preset="smoke",
        students="conv2_instance", processes=1, device="cpu", quiet=True,
    )  # fmt: skip
    assert any("decoded means as pictures" in note for note in result.report["notes"])
    assert result.report["results"][0]["recipe"]["optimizer"] == "adamw"


def test_other_sets_are_as_they_were() -> None:
    made = eval_case.small_set()
    storage = measure(made, None)
    subject = Subject("set", "s", made, storage, None, ())
    assert price(subject, "hard", drawn=False).total == storage.total
    assert as_pictures(made) is made


def test_what_decoders_are_read_with_is_part_of_what_a_set_is() -> None:
    one, other = drawn_set(), drawn_set()
    assert distribution_digest(one) == distribution_digest(other)
    other.manifest["distribution"]["blocks"][0]["decoder"]["scale"] = 2.0
    assert distribution_digest(one) != distribution_digest(other)
