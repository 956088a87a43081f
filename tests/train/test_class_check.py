"""Teachers are shown real pictures: one that means the classes in another order is refused, a weak one is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ddfast.data import Source
from ddfast.data.arrays import ArraySource
from ddfast.evaluation import evaluate
from ddfast.nets import ClassOrderError
from ddfast.nets.convnet import ConvNet
from ddfast.nets.observers import Observer, load_observer
from ddfast.train.class_check import check_teacher
from ddfast.train.loop import TrainConfig
from ddfast.train.relabel import relabel
from ddfast.train.small_observer import SmallObserver
from ddfast.train.views import ViewConfig
from tests.evaluation import eval_case
from tests.evaluation.eval_case import NAMES, SETTINGS, SIDE, small_set, source

OPTIONS: dict[str, Any] = {"view": ViewConfig((SIDE, SIDE), flip=True), "batch_size": 4, "progress": "quiet"}


class Colours(nn.Module):
    """Tells red, green and blue pictures apart, by ``pixels`` in a row; answers ``order[class]``."""

    def __init__(self, order: tuple[int, ...] = (0, 1, 2), pixels: int = SIDE) -> None:
        super().__init__()
        self.order, self.pixels = order, pixels
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.scale * x[:, :, 0, : self.pixels].mean(-1)
        return seen[:, torch.tensor(self.order).argsort()]


def teacher(order: tuple[int, ...] = (0, 1, 2), pixels: int = SIDE) -> Observer:
    return load_observer(Colours(order, pixels), num_classes=3, input_size=SIDE)


def test_a_permuted_teacher_is_refused_and_a_weak_one_is_not() -> None:
    images, labels = eval_case.pictures(20, 1)
    real = ArraySource(images, (labels + 1) % 3, ("blue", "red", "green"))  # the set's classes in another order
    named: dict[str, Any] = {"source": real, "size": (SIDE, SIDE)}
    right = teacher()
    state, weights = torch.get_rng_state(), right.module.state_dict()["scale"].clone()
    report = check_teacher(right, (0, 1, 2), NAMES, **named)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(right.module.state_dict()["scale"], weights)
    assert report is not None
    assert report.judged
    assert report.samples == 24
    assert report.agreement > 0.9
    with pytest.raises(ClassOrderError, match=r"teacher: Colours, looked at on pictures of arrays: .*") as caught:
        check_teacher(teacher((1, 2, 0)), (0, 1, 2), NAMES, **named)
    assert "--no-check-classes" in str(caught.value)
    assert caught.value.report.proposal == (1, 2, 0)
    # one pixel of noisy pictures: hardly better than chance, but in order
    noisy = ArraySource(*eval_case.pictures(20, 1, noise=250.0), NAMES)
    weak = check_teacher(teacher(pixels=1), (0, 1, 2), NAMES, source=noisy, size=(SIDE, SIDE))
    assert weak is not None
    assert weak.agreement < 0.7
    assert check_teacher(replace(teacher((1, 2, 0)), random_weights=True), (0, 1, 2), NAMES, **named) is None
    with pytest.raises(ValueError, match="data arrays: has 3 classes"):
        check_teacher(teacher(), (0, 1, 2), ("red", "green", "grey"), **named)


def test_relabelling_looks_at_real_pictures_first(tmp_path: Path) -> None:
    wrong, real = teacher((1, 2, 0)), source(20, 1)
    with pytest.raises(ClassOrderError, match="teacher: Colours, looked at on pictures of colours"):
        relabel(small_set(), [teacher(), wrong], tmp_path / "labels", real=real, **OPTIONS)
    assert not (tmp_path / "labels").exists()
    unseen = relabel(small_set(), [wrong], tmp_path / "unseen", **OPTIONS)  # no real pictures, no look
    assert (unseen.dense(0, range(12)).argmax(1) != small_set().labels).all()
    plain, seen = (
        relabel(small_set(), [teacher()], tmp_path / name, real=there, **OPTIONS)
        for name, there in (("plain", None), ("seen", real))
    )
    assert seen.file(0).read_bytes() == plain.file(0).read_bytes()
    assert seen.fingerprint == plain.fingerprint


def test_teachers_trained_for_relabelling_are_matched_by_name(tmp_path: Path) -> None:
    images, labels = eval_case.pictures(20, 1)
    moved = ArraySource(images, (labels + 1) % 3, ("blue", "red", "green"), name="moved")
    planned = SmallObserver("conv3", moved, SIDE, recipe=TrainConfig(epochs=4, batch_size=20, lr=0.05))
    store = relabel(small_set(), [planned], tmp_path / "labels", real=moved, **{**OPTIONS, "view": None})
    agreement = (store.dense(0, range(12)).argmax(1) == small_set().labels).float().mean()
    assert agreement > 0.8
    other = replace(planned, source=ArraySource(images, labels, ("red", "green", "grey")))
    with pytest.raises(ValueError, match=r"1 of 3 class folders are unknown to the observer \(blue\)"):
        relabel(small_set(), [other], tmp_path / "other", **OPTIONS)
    assert not (tmp_path / "other").exists()


def test_the_real_set_is_opened_once_and_only_if_a_teacher_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ddfast.train import relabel as relabelling

    opened: list[Source] = []
    given: dict[str, Any] = {}

    def open_source(name: str) -> Source:
        assert name == "somewhere"
        opened.append(source(20, 1))
        return opened[-1]

    def take(_: Any, teachers: Any, *__: Any, real: Any, **___: Any) -> None:
        given.update(teachers=teachers, real=real)

    monkeypatch.setattr(relabelling, "open_source", open_source)
    monkeypatch.setattr(relabelling, "relabel", take)
    small_set().save(tmp_path / "set", format="safetensors")
    weights, trained = tmp_path / "net_conv3.pth", "train:conv3"
    torch.save(ConvNet(3, 3, SIDE).state_dict(), weights)
    cases: list[tuple[list[str], bool, int, bool]] = [  # names, checked, times opened, pictures to look at
        ([trained, trained], True, 1, False),
        ([trained], False, 1, False),
        ([str(weights), str(weights)], True, 1, True),
        ([str(weights)], False, 0, False),
        ([trained, str(weights), trained], True, 1, True),
    ]
    for names, checked, times, looks in cases:
        opened.clear()
        relabelling.relabel_folder(
            tmp_path / "set", names, tmp_path / "labels", preset_name="smoke", data="somewhere", device="cpu",
            check_classes=checked,
        )  # fmt: skip
        assert len(opened) == times, names
        assert given["real"] is (opened[0] if looks else None)
        assert all(each.source is opened[0] for each in given["teachers"] if isinstance(each, SmallObserver))


def test_evaluation_looks_at_real_pictures_first(tmp_path: Path) -> None:
    settings = {**SETTINGS, "seeds": 1, "epochs": 1, "students": "conv3", "controls": False, "hard": False}
    settings |= {"ars": False, "full_data": False, "val": source(15, 2, name="others")}
    for given, looked_at in (({"train": source(20, 1)}, "colours"), ({}, "others")):
        with pytest.raises(ClassOrderError, match=f"teacher: Colours, looked at on pictures of {looked_at}"):
            evaluate(small_set(), out=tmp_path / "out", **given, **{**settings, "teacher": teacher((1, 2, 0))})
    assert not (tmp_path / "out").exists()
    blind = evaluate(small_set(), check_classes=False, **{**settings, "teacher": teacher((1, 2, 0))})
    assert blind.report["sets"][0]["teacher"]["name"] == "Colours"


@pytest.mark.parametrize("word", ["relabel", "evaluate"])
def test_the_command_line_can_leave_it_out(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ddfast import evaluation
    from ddfast.cli import main
    from ddfast.train import relabel as relabelling

    asked: list[bool] = []

    def stop(*_: Any, **settings: Any) -> None:
        asked.append(settings["check_classes"])
        raise ValueError("stopped")

    monkeypatch.setattr(relabelling, "relabel_folder", stop)
    monkeypatch.setattr(evaluation, "evaluate", stop)
    command = [word, "smoke", "--teacher", "conv3", "--out", str(tmp_path / "out")]
    assert [main(command), main([*command, "--no-check-classes"])] == [1, 1]
    assert asked == [True, False]
