"""The driver of the matching methods, over a matcher of a few lines."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import ddfast
from ddfast.data import open_source, space
from ddfast.methods import _matching_config
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.runs import Progress, RunError
from ddfast.runs.lookout import Lookout
from ddfast.runs.show import describe_overview
from tests.methods.matching_case import SETTINGS, DriftConfig, DriftMatcher, drift_method, source


@pytest.fixture(autouse=True)
def _drift() -> Iterator[None]:
    with drift_method():
        yield


def drift(out: Path, **changes: Any) -> ddfast.DistilledSet:
    resume = changes.pop("resume", False)
    return ddfast.distill("drift", source(), out=out, **{**SETTINGS, **changes}, quiet=True, resume=resume)


def test_result_is_the_loop_written_out(tmp_path: Path) -> None:
    made = drift(tmp_path / "out", ipc=2)
    problem = Problem(source(), DriftConfig(**SETTINGS, ipc=2), RunOptions(device="cpu"), "drift", measured=True)
    real, _ = problem.real()
    images, labels = problem.initial(real)
    losses = []
    for iteration in range(6):
        images = images * 0.9 + 0.01 * iteration
        losses.append(float(images.square().mean()))
    torch.testing.assert_close(made.extras["trained_images"], images)
    assert made.labels.tolist() == labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(made.images, problem.space.invert(made.extras["trained_images"]))
    assert made.manifest["losses"] == pytest.approx(losses, abs=1e-6)
    assert [test["iteration"] for test in made.manifest["tests"]] == [2, 4, 6]
    assert made.manifest["lr"] == made.manifest["recipe"]["lr"] == 0.01
    assert {path.name for path in (tmp_path / "out").glob("images_*")} == {f"images_0000{k}.png" for k in (2, 4, 6)}


def test_held_out_pictures_are_not_trained_on() -> None:
    problem = Problem(source(), DriftConfig(**SETTINGS, holdout=0.25), RunOptions(device="cpu"), "drift")
    seen = {bytes(picture.numpy().tobytes()) for picture in problem.pictures}
    tested = {bytes(picture.numpy().tobytes()) for picture in problem.space.invert(problem.test)}
    assert len(tested) == 9
    assert len(seen) == 27
    assert not seen & tested
    assert torch.bincount(problem.test_labels).tolist() == [3, 3, 3]


def test_a_source_without_a_readable_picture_is_named(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"readable pictures of each class .*: cats 0, dogs 0"):
        Problem(open_source(tmp_path), DriftConfig(**SETTINGS), RunOptions(device="cpu"), "drift")


@pytest.mark.parametrize("zca", [False, True])
def test_real_pictures_do_not_depend_on_how_many_are_converted_at_a_time(
    zca: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = Problem(source(), DriftConfig(**SETTINGS, zca=zca), RunOptions(device="cpu"), "drift")
    monkeypatch.setattr("ddfast.methods._problem._PICTURES", 5)
    images, labels = problem.real()
    torch.testing.assert_close(images, problem.space.apply(problem.pictures))
    assert torch.equal(labels, problem.labels)


def test_initial_pictures_differ_from_stage_to_stage_and_are_of_their_class() -> None:
    problem = Problem(source(), DriftConfig(**SETTINGS), RunOptions(device="cpu"), "drift")
    rows = [problem.initial_rows(2, stage) for stage in range(3)]
    assert all(problem.labels[row].tolist() == [0, 0, 1, 1, 2, 2] for row in rows)
    assert len(set(torch.cat(rows).tolist())) == 18


def status(root: Path) -> str:
    return describe_overview(Lookout(root).look())


@pytest.mark.parametrize("keep", [True, False])
def test_best_or_last_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    scores = iter([0.4, 0.9, 0.5])
    monkeypatch.setattr("ddfast.methods._driver.flat_accuracy", lambda *_: next(scores))
    made = drift(tmp_path / "out", keep=keep)
    assert [test["top1"] for test in made.manifest["tests"]] == [0.4, 0.9, 0.5]
    last = DriftMatcher.made[0]
    assert last.iteration == (4 if keep else 6)
    assert torch.equal(made.extras["trained_images"], last.images)


def test_an_iteration_stopped_halfway_leaves_the_state_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drift(tmp_path / "whole", keep=True)

    def stopping(self: DriftMatcher) -> None:
        if self.iteration == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DriftMatcher, "halfway", stopping)
        with pytest.raises(KeyboardInterrupt):
            drift(tmp_path / "stopped", keep=True)
    assert re.search(
        r"distill, waiting: 3/6 iterations \(50 %\), .* (passed|left), loss ", status(tmp_path / "stopped")
    )
    stopped = drift(tmp_path / "stopped", keep=True, resume=True)
    assert DriftMatcher.made[-1].iteration == DriftMatcher.made[0].iteration
    assert torch.equal(stopped.extras["trained_images"], whole.extras["trained_images"])
    assert stopped.manifest["losses"] == whole.manifest["losses"]
    assert stopped.manifest["tests"] == whole.manifest["tests"]


def test_other_settings_and_damage_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(self: DriftMatcher) -> None:
        if self.iteration == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DriftMatcher, "halfway", stopping)
        with pytest.raises(KeyboardInterrupt):
            drift(tmp_path / "out")
    with pytest.raises(RunError, match=r"config\.lr_img: the run has 1\.0, you ask for 2\.0"):
        drift(tmp_path / "out", lr_img=2.0, resume=True)
    with monkeypatch.context() as patch:
        patch.setattr(space, "_KNOWN", ((re.compile("colours"), space.CIFAR),))
        with pytest.raises(RunError, match=r"normalization: the run has \"measured\", you ask for"):
            drift(tmp_path / "out", resume=True)
    (tmp_path / "out/checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(RunError, match="cannot be read as a checkpoint"):
        drift(tmp_path / "out", resume=True)


def test_real_pictures_are_not_held_on_to_by_a_view(tmp_path: Path) -> None:
    drift(tmp_path / "out")
    assert DriftMatcher.made[-1].data.frozen.untyped_storage().nbytes() == 0


def test_a_checkpoint_that_a_kill_left_behind_is_removed(tmp_path: Path) -> None:
    drift(tmp_path / "out")
    (tmp_path / "out/checkpoint.pt").write_bytes(b"of the last iteration")
    drift(tmp_path / "out", resume=True)
    assert not (tmp_path / "out/checkpoint.pt").exists()


def test_a_test_on_the_way_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(0, 10**6, 11))  # each look at it is 11 s later, so that nothing is held back
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddfast.methods._driver.Progress", partial(Progress, clock=lambda: float(next(clock))))
        ddfast.distill("drift", source(), out=tmp_path / "out", **{**SETTINGS, "eval_students": 2})
    said = capsys.readouterr().err.splitlines()
    begin = said.index("drift: test at iteration 4: 2 students of 3 epochs")
    assert said[begin + 1 : begin + 3] == [
        f"drift: test at iteration 4: student 1 of 2, epoch {epoch} of 3" for epoch in (1, 2)
    ]
    assert "drift: test at iteration 4: student 2 of 2, epoch 3 of 3" in said
    assert "drift: test at iteration 6: 2 students of 3 epochs" in said


def test_momentum_that_never_decays_is_refused() -> None:
    with pytest.raises(ValueError, match=r"momentum: got 1\.0"):
        DriftConfig(momentum=1.0)


def test_students_are_trained_on_the_student_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(net: Any, theta: Tensor, images: Tensor, targets: Tensor, recipe: Any, **_: Any) -> Tensor:
        seen.append((images.clone(), targets, recipe))
        return theta

    monkeypatch.setattr(_matching_config, "train_flat", noting)
    made = drift(tmp_path / "out", eval_students=2, dsa="flip")
    assert len(seen) == 6
    assert torch.equal(seen[-1][0], made.extras["trained_images"])
    assert (seen[-1][2].lr, seen[-1][2].epochs, seen[-1][2].dsa) == (0.01, 3, "flip")
