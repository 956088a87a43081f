"""Class-incremental evaluations of a tiny task: against a transcription, cut, shared, of trained images, mistaken."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch

from ddfast._types import IMAGENET
from ddfast.cli import main
from ddfast.data.space import Space
from ddfast.data.whitening import ZCA
from ddfast.evaluation import continual, runner
from ddfast.evaluation.incremental import Continual, read_continual, validate_continual
from ddfast.evaluation.incremental.config import ContinualConfig, class_orders, seen_counts
from ddfast.evaluation.inputs import open_validation
from ddfast.evaluation.protocols import student_config
from ddfast.evaluation.students import build_student
from ddfast.evaluation.validation import write_cache
from ddfast.runs import Progress, RunError
from ddfast.train import accuracy, predict, train_student
from ddfast.train.presets import Case
from tests.evaluation.eval_case import CLASSES, NAMES, SIDE, pictures, saved_set, small_set, source

SETTINGS: dict[str, Any] = {
    "preset": "smoke", "students": "conv2_instance", "steps": 3, "orders": 2, "seeds": 2, "epochs": 3, "width": 8,
    "processes": 1, "device": "cpu", "quiet": True,
}  # fmt: skip


def run(out: Path | None = None, distilled: Any = None, **changes: Any) -> Continual:
    made = small_set() if distilled is None else distilled
    return continual(made, source(12, 2, "test"), out=out, **{**SETTINGS, **changes})


def settled(report: dict[str, Any]) -> dict[str, Any]:
    return {**report, "results": [{**row, "seconds": None} for row in report["results"]]}


def numpy_order(seed: int, classes: int) -> list[int]:
    """As the papers' programs draw it."""
    np.random.seed(seed)  # noqa: NPY002
    return np.random.permutation(classes).tolist()  # noqa: NPY002


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Continual]:
    out = tmp_path_factory.mktemp("continual") / "out"
    return out, run(out)


def test_each_step_trains_and_tests_on_the_classes_seen(whole: tuple[Path, Continual]) -> None:
    """Every student once more by hand: its images, its classes, its seed."""
    report = read_continual(whole[0])
    assert report == whole[1].report
    made = small_set()
    tests, truth = (torch.from_numpy(part) for part in pictures(12, 2))
    (row,) = report["results"]
    config = ContinualConfig(preset="smoke", epochs=3, width=8).evaluation()
    for step in range(3):
        values = []
        for order in range(2):
            seen = torch.tensor(numpy_order(order, CLASSES)[: step + 1])
            assert seen.tolist() == report["orders"][order][: step + 1]
            kept, asked = torch.isin(made.labels, seen), torch.isin(truth, seen)
            for student in range(2):
                number = 2 * order + student
                net = build_student("conv2_instance", CLASSES, SIDE, seed=number, width=8)
                case = Case("conv2_instance", CLASSES, 4, SIDE, 1, int(kept.sum()))
                recipe = student_config(config, case, seed=number)
                train_student(made.images[kept], made.labels[kept], net, None, recipe)
                values.append(accuracy(net.eval(), tests[asked], truth[asked]))
        assert row["top1"][step]["values"] == pytest.approx(values, abs=1e-6)
        assert row["top1"][step]["mean"] == pytest.approx(mean(values), abs=1e-6)
        assert row["top1"][step]["std"] == pytest.approx(stdev(values), abs=1e-6)
    assert row["images"] == [4, 8, 12]
    assert row["top1"][0]["mean"] > 0.9  # one class alone
    averages = [mean(entry["values"][k] for entry in row["top1"]) for k in range(4)]
    assert row["average"]["values"] == pytest.approx(averages, abs=2e-6)


def test_orders_and_steps() -> None:
    assert class_orders(100, 4)[3] == tuple(numpy_order(3, 100))
    assert seen_counts(100, 5) == (20, 40, 60, 80, 100)
    assert seen_counts(10, 4) == (2, 5, 7, 10)
    with pytest.raises(ValueError, match="steps: got 11, expected at most as many as there are classes, 10"):
        seen_counts(10, 11)


def test_table_and_page(whole: tuple[Path, Continual]) -> None:
    out, result = whole
    text = (out / "table.md").read_text()
    assert text == result.text()
    head, rule, line = text.splitlines()[:3]
    assert head == "| memory | 1 classes | 2 classes | 3 classes | average |"
    assert head.count("|") == rule.count("|") == line.count("|")
    top1 = result.report["results"][0]["top1"][1]
    assert f"{100 * top1['mean']:.1f} ± {100 * top1['std']:.1f}" in line
    html = (out / "report.html").read_text()
    for words in ("classes seen", "<svg", f"{100 * top1['mean']:.1f}", "orders and students", "data:image/png", *NAMES):
        assert words in html
    assert "http" not in html
    assert sorted(path.name for path in out.iterdir()) == [
        "records.json", "report.html", "report.json", "run.json", "table.md",
    ]  # fmt: skip


def test_a_cut_run_goes_on_by_student(
    whole: tuple[Path, Continual], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, done = runner.run_task, []

    def cut(*args: Any) -> dict[str, Any]:
        if len(done) == 5:
            raise KeyboardInterrupt
        done.append(args[1].id)
        return train(*args)

    monkeypatch.setattr(runner, "run_task", cut)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut")
    monkeypatch.undo()
    shown: list[Any] = []
    monkeypatch.setattr(
        runner, "Progress", lambda *args, **options: Progress(*args, **options, callback=shown.append)
    )  # fmt: skip
    resumed = run(tmp_path / "cut", resume=True)
    assert settled(resumed.report) == settled(whole[1].report)
    # steps of trainings of 3 epochs: the last step's images make two batches, and its students come first
    assert (shown[0].total, shown[-1].done) == (8 * 3 + 4 * 6, 48)
    assert 4 * 6 + 3 <= shown[0].done < 4 * 6 + 6
    with pytest.raises(RunError, match="orders"):
        run(tmp_path / "cut", resume=True, orders=3)


def test_several_sets_and_students_are_compared(whole: tuple[Path, Continual], tmp_path: Path) -> None:
    result = run(
        None, [small_set(), small_set(2)], students="conv2_instance,resnet10_modified-in", steps=2, seeds=1, orders=1
    )
    rows = result.report["results"]
    assert [(row["set"], row["student"]) for row in rows] == [
        (key, name) for key in ("set1", "set2") for name in ("conv2_instance", "resnet10_modified_instance")
    ]
    assert result.report["seen"] == [1, 3]
    # its last step is that of the same student in a run of its own
    assert rows[0]["top1"][-1]["values"][0] == whole[1].report["results"][0]["top1"][-1]["values"][0]
    assert result.text().count("ResNet-10, 3x3 stem, instance norm") == 2
    assert "set 2" in result.html


@pytest.mark.parametrize("kind", ["normalized", "zca"])
def test_students_train_on_images_as_a_matching_method_left_them(kind: str) -> None:
    real = source(20, 1)
    images, _ = pictures(20, 1)
    space = Space(IMAGENET, ZCA.fit(torch.from_numpy(images)) if kind == "zca" else None)
    made = small_set(3, space=kind, lr=0.02, method="mtt")
    made.extras["trained_images"] = space.apply(made.images) * 1.5  # not what the visible pixels say
    settings = {"preset": "dsa", "steps": 2, "orders": 1, "seeds": 1, "train": real}
    result = run(None, made, **settings)
    (row,) = result.report["results"]
    assert row["recipe"]["lr"] == 0.02
    seen = torch.tensor(result.report["orders"][0][: result.report["seen"][0]])
    for step, kept in ((0, torch.isin(made.labels, seen)), (1, torch.ones(9, dtype=torch.bool))):
        net = build_student("conv2_instance", CLASSES, SIDE, seed=0, width=8)
        case = Case("conv2_instance", CLASSES, 3, SIDE, 1, int(kept.sum()))
        recipe = student_config(ContinualConfig(epochs=3, width=8).evaluation(), case, seed=0)
        train_student(made.extras["trained_images"][kept], made.labels[kept], net, None, replace(recipe, lr=0.02))
        tests, truth = (torch.from_numpy(part) for part in pictures(12, 2))
        asked = torch.isin(truth, made.labels[kept])
        guess = predict(space.before(net).eval(), tests[asked], normalization=IMAGENET).argmax(1)
        assert row["top1"][step]["values"][0] == pytest.approx(float((guess == truth[asked]).double().mean()), abs=1e-6)
    assert any("whitening" in note for note in result.report["notes"]) == (kind == "zca")
    if kind == "zca":
        with pytest.raises(ValueError, match="--train"):
            run(None, made, **{**settings, "train": None})


def test_stored_images_are_decoded_before_students_train() -> None:
    made = small_set(formation={"factor": 2, "kind": "single", "cap": 128})
    result = run(None, made, steps=2, orders=1, seeds=1, epochs=1)
    assert result.report["results"][0]["images"] == [4 * 4, 3 * 4 * 4]


@pytest.mark.parametrize(("method", "apart"), [("dm", True), ("dc", False), ("mtt", False)])
def test_sets_that_were_not_made_step_by_step_are_named(method: str, apart: bool) -> None:
    """DM's classes never meet; DC trains its networks on all of them between two steps."""
    notes = run(None, small_set(method=method), steps=1, orders=1, seeds=1, epochs=1).report["notes"]
    assert any("all classes at hand" in note for note in notes) != apart


def test_prepared_pictures_of_some_classes(tmp_path: Path) -> None:
    plain = open_validation(source(7, 2), NAMES, SIDE, None)
    write_cache(plain, tmp_path, 0)
    some = replace(plain, only=(0, 2))
    cached = replace(some, cache=str(tmp_path))
    assert some.counts == (7, 0, 7)
    for one in (some, cached):
        parts = list(one.batches(4))
        assert torch.cat([labels for _, labels in parts]).tolist() == [0] * 7 + [2] * 7
    assert all(torch.equal(a[0], b[0]) for a, b in zip(some.batches(4), cached.batches(4), strict=True))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 4}, ValueError, "steps: got 4"),
        ({"steps": 0}, ValueError, "steps: got 0"),
        ({"orders": 0}, ValueError, "orders: got 0"),
        ({"seeds": 0}, ValueError, "seeds: got 0"),
        ({"students": "resnet9000"}, ValueError, "resnet9000"),
        ({"preset": "best"}, ValueError, "preset: got 'best'"),
        ({"order": 1}, TypeError, "no setting 'order'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        run(None, **change)


def test_a_wrong_report_is_named(whole: tuple[Path, Continual]) -> None:
    report = whole[1].report
    with pytest.raises(ValueError, match=r"seen: got \[1, 2\]"):
        validate_continual({**report, "seen": [1, 2]})
    with pytest.raises(ValueError, match=r"orders\[0\]"):
        validate_continual({**report, "orders": [[0, 1, 1]]})
    row = report["results"][0]
    with pytest.raises(ValueError, match=r"results\[0\].top1"):
        validate_continual({**report, "results": [{**row, "top1": row["top1"][:2]}]})
    with pytest.raises(ValueError, match="results"):
        validate_continual({**report, "results": None})


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = saved_set(tmp_path / "set")
    images, labels = pictures(4, 2)
    np.savez(tmp_path / "test.npz", images=images, labels=labels, class_names=np.array(NAMES))
    command = ["continual", str(made), "--data", str(tmp_path / "test.npz"), "--preset", "smoke", "--steps", "2",
               "--orders", "1", "--seeds", "1", "--epochs", "1", "--width", "8", "--students", "conv2-in",
               "--processes", "1", "--quiet"]  # fmt: skip
    assert main(command) == 0
    text = capsys.readouterr().out
    assert text.startswith("| memory | 1 classes | 3 classes | average |")
    out = tmp_path / "set_continual"
    assert str(out / "report.html") in text
    assert main(command) == 1
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == read_continual(out)


@pytest.mark.slow
def test_processes_do_not_change_the_figures(whole: tuple[Path, Continual], tmp_path: Path) -> None:
    assert settled(run(tmp_path / "two", processes=2).report) == settled(whole[1].report)
