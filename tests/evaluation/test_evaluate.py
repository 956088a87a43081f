"""Whole evaluations of a tiny task: figures, controls, report, and runs that are cut or shared."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest
import torch
from torch import nn

import ddfast
from ddfast.evaluation import Evaluation, evaluate, plan, read_report, runner, validate_report
from ddfast.evaluation.protocols import student_config
from ddfast.evaluation.scores import augmentation_robust_score, label_robust_score
from ddfast.runs import RunError
from ddfast.train import StudentConfig
from tests.evaluation.eval_case import NAMES, SETTINGS, saved_set, settled, small_set, source


class Mean(nn.Module):
    """A perfect teacher: the mean of each colour."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * x.mean((2, 3))


def run(out: Path | None = None, distilled: Any = None, **changes: Any) -> Evaluation:
    settings = {"train": source(20, 1), **SETTINGS, **changes}
    return evaluate(small_set() if distilled is None else distilled, source(12, 2, "test"), out=out, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Evaluation]:
    out = tmp_path_factory.mktemp("evaluation") / "out"
    return out, run(out, teacher=Mean(), best=True)


def test_every_kind_is_trained_and_tested(whole: tuple[Path, Evaluation]) -> None:
    out, result = whole
    report = read_report(out)
    assert report == result.report
    kinds = {(row["images"], row["labels"], row["augmented"]) for row in report["results"]}
    sets = ("distilled", "random-images", "random-bytes")
    expected = {(images, labels, True) for images in sets for labels in ("hard", "soft")}
    assert kinds == expected | {("distilled", "soft", False), ("random-images", "soft", False), ("full", "hard", True)}
    for row in report["results"]:
        values = row["top1"]["values"]
        assert len(values) == 2
        assert row["top1"]["mean"] == pytest.approx(mean(values), abs=2e-6)
        assert row["top1"]["std"] == pytest.approx(stdev(values), abs=2e-6)
        assert row["curve"]["mean"][-1] == row["top1"]["mean"]  # the last epoch, not the best one
        assert mean(row["per_class"]) == pytest.approx(row["top1"]["mean"], abs=1e-5)
        assert row["best_of_test"]["mean"] >= row["top1"]["mean"]
        assert row["cost"]["steps"] > 0
        assert (row["cost"]["flops"]["teacher"] > 0) == (row["labels"] == "soft" and False)  # no convolution in it
    assert result.top1("full")["mean"] > 0.6
    equal = next(row for row in report["results"] if row["images"] == "random-images")
    assert equal["image_count"] == 12
    paid = next(row for row in report["results"] if row["images"] == "random-bytes")
    assert paid["bytes"] <= report["sets"][0]["storage"]["bytes"]["total"] + 1
    assert report["validation"] | {"fingerprint": ""} == {
        "name": "test", "fingerprint": "", "images": 36, "unreadable": 0, "per_class": 333,
        "preparation": "whole picture at 16 x 16",
    }  # fmt: skip


def test_scores_are_those_of_the_rows(whole: tuple[Path, Evaluation]) -> None:
    result = whole[1]
    full, hard = result.top1("full")["values"], result.top1(labels="hard")["values"]
    syn, rdm = result.top1()["values"], result.top1("random-images")["values"]
    rows = result.report["results"]
    plain = {row["images"]: row["top1"]["values"] for row in rows if not row["augmented"]}
    score = result.report["scores"][0]
    gains = [a - b for a, b in zip(syn, rdm, strict=True)]
    losses = [a - b for a, b in zip(full, hard, strict=True)]
    bare = [a - b for a, b in zip(plain["distilled"], plain["random-images"], strict=True)]
    lrs = [label_robust_score(h, i) for h, i in zip(losses, gains, strict=True)]
    ars = [augmentation_robust_score(i, p) for i, p in zip(gains, bare, strict=True)]
    assert score["lrs"]["mean"] == pytest.approx(mean(lrs), abs=2e-6)
    assert score["ars"]["mean"] == pytest.approx(mean(ars), abs=2e-6)


class _Page(HTMLParser):
    """Collects what a page would fetch, and its text; checks that tags are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "link", "br", "circle", "path", "rect", "polyline", "polygon"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert not self.open or tag == self.open.pop() or tag in ("circle", "path", "rect", "polyline", "polygon")

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained(whole: tuple[Path, Evaluation]) -> None:
    html = (whole[0] / "report.html").read_text(encoding="utf-8")
    page = _Page()
    page.feed(html)
    assert not page.open
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert not re.search(r"url\(|@import|https?://", html)
    assert page.tags.count("img") == 3
    assert page.tags.count("svg") == 4
    for words in ("equal bytes", "equal images", "Robust scores", "Best of the tests", "prefers-color-scheme", *NAMES):
        assert words in html
    top1 = whole[1].top1()
    assert f"{100 * top1['mean']:.1f}" in page.text


def test_names_are_escaped() -> None:
    names = ("<b>", "a&b", '"c"')
    real = source(20, 1, names=names)
    result = evaluate(small_set(2, names), source(4, 2, "<i>", names), train=real, **{**SETTINGS, "seeds": 1})
    assert "<b>" not in result.html.replace("<div class='tile'><b>", "")
    assert "&lt;i&gt;" in result.html
    assert result.top1()["std"] is None


def test_a_cut_run_ends_in_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("ddfast.runs.task.Task.tell", lambda task, text: told.append(f"{task.id}: {text}"))
        plain = run(tmp_path / "whole")
    assert all(re.fullmatch(r"[\w-]+: epoch \d+/\d+, loss \d+\.\d{3}, \d+ s left", words) for words in told)
    assert len({words.partition(":")[0] for words in told}) > 4
    train, done = runner.run_task, []

    def cut(*args: Any) -> dict[str, Any]:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(train(*args))
        return done[-1]

    monkeypatch.setattr(runner, "run_task", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    assert not (tmp_path / "cut" / "report.json").exists()
    with pytest.raises(RunError, match="--resume"):
        run(tmp_path / "cut")
    count = 0

    def counted(*args: Any) -> dict[str, Any]:
        nonlocal count
        count += 1
        return train(*args)

    monkeypatch.setattr(runner, "run_task", counted)
    resumed = run(tmp_path / "cut", resume=True)
    assert settled(resumed.report) == settled(plain.report)
    assert count == len(plain.report["results"]) * 2 - 4
    with pytest.raises(RunError, match="seeds"):
        run(tmp_path / "cut", resume=True, seeds=3)
    with pytest.raises(RunError, match="sha256"):
        run(tmp_path / "cut", small_set(3), resume=True)


def test_another_recipe_is_not_resumed(whole: tuple[Path, Evaluation], monkeypatch: pytest.MonkeyPatch) -> None:
    def mirrored(*given: Any, **more: Any) -> StudentConfig:
        recipe = student_config(*given, **more)
        return replace(recipe, flip=not recipe.flip)

    settings = {"teacher": Mean(), "best": True, "resume": True}
    run(whole[0], **settings)
    monkeypatch.setattr(plan, "student_config", mirrored)
    told = r"another configuration.*\n  recipes\.set-distilled-hard-conv3\.flip: the run has (true|false), you ask for"
    with pytest.raises(RunError, match=told):
        run(whole[0], **settings)


@pytest.mark.slow
def test_processes_do_not_change_the_figures(tmp_path: Path) -> None:
    alone, together = (run(tmp_path / str(n), processes=n) for n in (1, 2))
    first, second = settled(alone.report), settled(together.report)
    assert first == second


def test_no_real_set_no_controls() -> None:
    result = run(train=None)
    assert {row["images"] for row in result.report["results"]} == {"distilled"}
    assert result.report["scores"][0]["lrs"] is None
    assert any("--train" in note for note in result.report["notes"])


def test_norms_are_compared_in_one_table() -> None:
    asked = "conv3-in,resnet10_modified-in,resnet10_modified-bn,resnet18_modified-in,resnet18_modified-bn"
    settings = {**SETTINGS, "controls": False, "seeds": 1, "epochs": 1, "curve_points": 1, "val_per_class": 2}
    result = evaluate(small_set(2), source(2, 2), students=asked, **settings)
    assert [student["label"] for student in result.report["students"]] == [
        "ConvNet-3, instance norm (width 8)", "ResNet-10, 3x3 stem, instance norm", "ResNet-10, 3x3 stem",
        "ResNet-18, 3x3 stem, instance norm", "ResNet-18, 3x3 stem",
    ]  # fmt: skip
    (row,) = result.report["cross_architecture"]
    assert len(row["top1"]) == 5
    assert all(0 <= cell["mean"] <= 1 for cell in row["top1"])
    assert "Across architectures" in result.html


def test_sets_and_students_make_a_cross_table(tmp_path: Path) -> None:
    one = small_set(3, observer={"name": "conv3"})
    other = small_set(2, observer={"name": "resnet18"})
    result = evaluate(
        [one, other], source(4, 2), students="conv3,conv4_instance", **{**SETTINGS, "controls": False, "seeds": 1}
    )
    table = result.report["cross_architecture"]
    assert [row["observer"] for row in table] == ["conv3", "resnet18"]
    for row in table:
        for cell, student in zip(row["top1"], ("conv3", "conv4_instance"), strict=True):
            assert cell["mean"] == result.top1(student=student, set=row["set"])["mean"]
    assert "Across architectures" in result.html
    assert "ConvNet-4, instance norm" in result.html


def test_nan_loss_names_task_step_and_rate_and_keeps_the_rest(tmp_path: Path) -> None:
    with pytest.raises(
        FloatingPointError, match=r"set-distilled-hard-conv3-0: .*step \d+.*learning rate \d[.\d]*e\+\d\d.*--resume"
    ):
        run(tmp_path / "out", lr=1e30)
    assert (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": 0}, "seeds: got 0"),
        ({"preset": "nonsense"}, "preset: got 'nonsense'"),
        ({"students": "resnet9000"}, "resnet9000"),
        ({"students": "conv6"}, "input_size"),
        ({"device": "tpu"}, "device: got 'tpu'"),
        ({"full_accuracy": 82.0}, "full_accuracy: got 82.0"),
        ({"processes": 0}, "processes: got 0"),
        ({"train": source(20, 1, names=("red", "green", "grey"))}, "train colours: .*blue"),
        ({"distilled": small_set(2, ("red", "green", "pink"))}, "validation test: .*pink"),
        ({"distilled": []}, "got no set"),
        ({"distilled": [small_set(2), small_set(2, ("a", "b", "c"))]}, "same classes"),
    ],
)
def test_what_does_not_fit_is_named_before_any_work(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(**change)


def test_unknown_settings_and_missing_folders(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="nonsense"):
        run(nonsense=1)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        run(distilled=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no such folder or file"):
        evaluate(small_set(), tmp_path / "nowhere", **SETTINGS)
    with pytest.raises(ValueError, match="--data"):
        evaluate(small_set(), **SETTINGS)


def test_the_set_is_not_tested_on_what_it_was_made_from() -> None:
    real = source(20, 1)
    made = small_set(source={"name": "colours", "fingerprint": real.fingerprint()})
    with pytest.raises(ValueError, match="is what the set was distilled from"):
        evaluate(made, real, **SETTINGS)


def test_the_schema_names_the_wrong_key(whole: tuple[Path, Evaluation]) -> None:
    report = json.loads((whole[0] / "report.json").read_text())
    validate_report(report)
    for key, wrong, words in (
        ("results", [{**report["results"][0], "labels": "medium"}], r"results\[0\]: labels: got 'medium'"),
        ("results", [{**report["results"][0], "per_class": [0.5]}], "per_class: got 1 entries"),
        ("sets", [], "sets: got"),
        ("schema_version", 99, "update ddfast"),
        ("format", "x", "expected 'ddfast.evaluation'"),
    ):
        with pytest.raises(ValueError, match=words):
            validate_report({**report, key: wrong})
    with pytest.raises(ValueError, match="notes: missing"):
        validate_report({k: v for k, v in report.items() if k != "notes"})


def test_public_name(tmp_path: Path) -> None:
    assert ddfast.evaluate is evaluate
    folder = saved_set(tmp_path / "set", 2)
    result = ddfast.evaluate(folder, source(4, 2), **{**SETTINGS, "seeds": 1})
    assert result.report["sets"][0]["name"] == "set"
    assert "distilled, hard labels, conv3" in result.text()


def stored_labels(path: Path, distilled: Any, **changes: Any) -> Any:
    from ddfast.nets import load_observer
    from ddfast.train.relabel import relabel
    from ddfast.train.views import ViewConfig

    view = ViewConfig((16, 16), factor=1, scale=(0.5, 1.0), flip=True, mix="cutmix")
    settings = {"view": view, "epochs": 3, "batch_size": 5, "k": 2, "seed": 4, "progress": "quiet", **changes}
    return relabel(distilled, [load_observer(Mean(), input_size=16)], path, **settings)


@pytest.mark.parametrize("per_image", [False, True])
def test_stored_labels_are_used_and_counted(tmp_path: Path, per_image: bool) -> None:
    distilled = small_set()
    changes = {"view": None, "epochs": 1} if per_image else {}
    store = stored_labels(tmp_path / "labels", distilled, **changes)
    result = run(labels=tmp_path / "labels", full_data=False, teacher=Mean())
    soft = next(row for row in result.report["results"] if row["images"] == "distilled" and row["labels"] == "soft")
    assert soft["cost"]["flops"]["teacher"] == 0
    assert len(set(soft["top1"]["values"])) > 0
    if not per_image:
        assert (soft["recipe"]["batch_size"], soft["recipe"]["crop"], soft["recipe"]["shift"]) == (5, [0.5, 1.0], 0)
        control = next(row for row in result.report["results"] if row["images"] == "random-images")
        assert control["recipe"]["crop"] == [0.5, 1.0]  # the same recipe
    storage = result.report["sets"][0]["storage"]["bytes"]
    assert storage["labels"] == store.layout.total_bytes
    assert any("counted as storage" in note for note in result.report["notes"])
    assert any("at most 3 epochs, in batches of 5" in note for note in result.report["notes"]) is not per_image
    alone = run(labels=store, full_data=False)
    assert {(row["images"], row["labels"]) for row in alone.report["results"]} == {
        ("distilled", "hard"), ("distilled", "soft"), ("random-images", "hard"), ("random-bytes", "hard"),
    }  # fmt: skip


def test_labels_of_another_set_are_refused(tmp_path: Path) -> None:
    stored_labels(tmp_path / "labels", small_set(3))
    with pytest.raises(ValueError, match="another set of images"):
        run(labels=tmp_path / "labels")
    with pytest.raises(FileNotFoundError, match="ddfast relabel"):
        run(labels=tmp_path)


def test_the_dsa_recipe_runs() -> None:
    result = run(preset="dsa", controls=False, soft=False, full_data=False, seeds=1, epochs=4)
    recipe = result.report["results"][0]["recipe"]
    assert recipe["milestones"] == [2]
    assert recipe["dsa"]


def test_equal_controls_are_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from ddfast.evaluation import tasks

    trained: list[str] = []
    train = tasks._train

    def counted(plan: Any, spec: Any, *rest: Any) -> Any:
        trained.append(spec.images)
        return train(plan, spec, *rest)

    monkeypatch.setattr(tasks, "_train", counted)
    raw = {"storage": {"layout": "safetensors", "image_format": None}}  # every picture costs the same
    sizes = {"images": 12 * 768, "labels": 0, "extras": 0, "per_class": [4 * 768] * 3}
    settings = {"full_data": False, "ars": False, "seeds": 1}
    result = run(distilled=small_set(4, **raw, bytes=sizes), **settings)
    rows = {row["images"]: row for row in result.report["results"]}
    assert trained == ["distilled", "random-images"]
    assert rows["random-bytes"]["top1"] == rows["random-images"]["top1"]
    trained.clear()
    result = run(distilled=small_set(4, **raw, bytes={**sizes, "extras": 3 * 768}), **settings)
    assert trained == ["distilled", "random-images", "random-bytes"]
    assert result.report["results"][-1]["image_count"] == 15
