"""PDD that discards easy examples: each stage sees the real pictures of its own forgetting scores, and only these."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import ddfast
from ddfast.methods import get_method
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.pdd.config import PDDConfig
from ddfast.runs import RunError
from ddfast.train import experts
from ddfast.train.forgetting import FORMAT, ForgettingScores
from ddfast.train.matching.trajectory import TrajectoryMatcher
from tests.methods.matching_case import SETTINGS, DriftConfig, DriftMatcher, drift_method, source
from tests.methods.pdd_case import MTT, pdd

SMOKE = {**SETTINGS, "test": "none"}
# of 12 pictures a class: 5 never forgotten, 4 once, 3 thrice
COUNTS = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 3, 3, 3])[torch.arange(36) % 12]
COUNTS = COUNTS[torch.randperm(36, generator=torch.Generator().manual_seed(0))]


@pytest.fixture(autouse=True)
def _drift() -> Iterator[None]:
    with drift_method({"smoke": SMOKE}):
        yield


def problem(**changes: Any) -> Problem:
    return Problem(source(), DriftConfig(**{**SMOKE, **changes}), RunOptions(device="cpu"), "drift", measured=True)


def scores_file(path: Path, fingerprint: str, counts: Tensor = COUNTS) -> Path:
    """As `train_experts` writes it, of one network."""
    info = {"format": FORMAT, "experts": {"pictures": fingerprint}, "epochs": 6}
    tensors = {
        "counts": counts.short()[None].clone(),
        "learned": torch.ones(1, len(counts), dtype=torch.uint8),
    }
    save_file(tensors, path, {"ddfast": json.dumps(info)})
    return path


def staged(out: Path, **changes: Any) -> list[DriftMatcher]:
    DriftMatcher.made.clear()
    given: dict[str, Any] = {"base": "drift", "base_preset": "smoke", "pool": 2, "difficulty_interval": 1.0, **changes}
    pdd(out, **{"ipc_per_stage": 1, "stages": 3, "transition": False, **given})
    return list(DriftMatcher.made)


def belong(images: Tensor, chosen: Tensor) -> bool:
    """Whether every image is one of the chosen pictures."""
    return bool((images[:, None] == chosen[None]).flatten(2).all(2).any(1).all())


def wanted(stage: int) -> Tensor:
    """bool [36], by hand."""
    return [COUNTS < 1, (COUNTS >= 1) & (COUNTS < 2), COUNTS >= 2][stage]


def test_a_stage_sees_the_pictures_of_its_own_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Tensor] = []
    before = DriftMatcher.__init__

    def noting(self: DriftMatcher, *given: Any) -> None:
        before(self, *given)
        begun.append(self.images.clone())

    monkeypatch.setattr(DriftMatcher, "__init__", noting)
    whole = problem()
    real, labels = whole.real()
    file = scores_file(tmp_path / "scores.safetensors", whole.fingerprint)
    for scope in ("all", "pool"):
        begun.clear()
        matchers = staged(tmp_path / scope, forgetting=str(file), difficulty_scope=scope)
        for stage, (matcher, images) in enumerate(zip(matchers, begun, strict=True)):
            own = wanted(stage)
            assert belong(images, real[own])
            assert not belong(images, real[~own])
            assert matcher.labels.tolist() == [0, 1, 2]
            seen = own if scope == "all" else torch.ones(36, dtype=torch.bool)
            assert torch.equal(matcher.data.images[:], real[seen])
            assert torch.equal(matcher.data.labels, labels[seen])
        manifest = ddfast.load(tmp_path / scope).manifest
        assert manifest["stage_pictures"] == [int(wanted(stage).sum()) for stage in range(3)]
        assert manifest["config"]["forgetting"] == "scores.safetensors"
    plain = staged(tmp_path / "plain")
    assert all(len(matcher.data.images) == 36 for matcher in plain)
    assert "forgetting" not in ddfast.load(tmp_path / "plain").manifest["config"]


def test_scores_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole = problem()
    other = scores_file(tmp_path / "other.safetensors", "0123")
    with pytest.raises(RunError, match=r"scores of pictures 0123, expected"):
        staged(tmp_path / "out", forgetting=str(other))
    held = scores_file(tmp_path / "held.safetensors", whole.fingerprint)
    with pytest.raises(RunError, match=r"scores of pictures .*, expected"):  # other pictures are held out
        staged(tmp_path / "held", forgetting=str(held), base_preset=None, options={**SMOKE, "test": "split"})
    with pytest.raises(FileNotFoundError, match=r"forgetting: .*nowhere is not there"):
        staged(tmp_path / "none", forgetting=str(tmp_path / "nowhere"))


def test_a_stage_without_pictures_is_named_before_any_work(tmp_path: Path) -> None:
    file = scores_file(tmp_path / "scores.safetensors", problem().fingerprint)
    with pytest.raises(ValueError, match=r"class red, green, blue has no example .* \[4, 8\) \(stage 2 of 3\)"):
        staged(tmp_path / "out", forgetting=str(file), difficulty_interval=4.0)
    assert DriftMatcher.made == []
    few = COUNTS.clone()
    few[(COUNTS == 3) & (problem().labels == 1)] = 1
    few[torch.nonzero(problem().labels == 1)[0]] = 3
    file = scores_file(tmp_path / "few.safetensors", problem().fingerprint, few)
    with pytest.raises(ValueError, match=r"class green has 1 pictures in stage 3 of 3 .* but ipc_per_stage is 2"):
        staged(tmp_path / "few", forgetting=str(file), ipc_per_stage=2)


def test_other_scores_are_another_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = scores_file(tmp_path / "scores.safetensors", problem().fingerprint)

    def stopping(self: DriftMatcher) -> None:
        if self.stage == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DriftMatcher, "halfway", stopping)
        with pytest.raises(KeyboardInterrupt):
            staged(tmp_path / "out", forgetting=str(file))
    with pytest.raises(RunError, match="difficulty_interval"):
        staged(tmp_path / "out", forgetting=str(file), difficulty_interval=1.5, resume=True)
    scores_file(file, problem().fingerprint, COUNTS.flip(0))
    with pytest.raises(RunError, match="scores"):
        staged(tmp_path / "out", forgetting=str(file), resume=True)
    scores_file(file, problem().fingerprint)
    staged(tmp_path / "out", forgetting=str(file), resume=True)
    staged(tmp_path / "whole", forgetting=str(file))
    one, other = (ddfast.load(tmp_path / name).extras["trained_images"] for name in ("out", "whole"))
    assert torch.equal(one, other)


COUNTED: dict[str, Any] = {
    "forgetting": "train", "difficulty_interval": 0.5, "ipc_per_stage": 1,
    "options": {"test": "none", "iterations": 2, "expert_train_epochs": 4, "expert_lr": 0.3, "width": 8},
}  # fmt: skip


def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """(folder, pictures, passes) of what experts are trained from now on."""
    found: list[tuple[str, int, int]] = []
    before = experts._Training.run

    def noting(self: Any, *given: Any) -> None:
        done = sum(max(self.store.epochs_done(k), 0) for k in range(self.config.experts))
        before(self, *given)
        passes = sum(self.store.epochs_done(k) for k in range(self.config.experts)) - done
        folder = self.store.path.parent
        found.append((f"{folder.parent.name}/{folder.name}", len(self.images), passes))

    monkeypatch.setattr(experts._Training, "run", noting)
    return found


def test_mtt_counts_while_its_own_experts_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = trainings(monkeypatch)
    pdd(tmp_path / "out", **COUNTED, difficulty_scope="pool")
    assert [(folder, count) for folder, count, passes in done if passes] == [("0/experts", 36), ("1/experts", 36)]
    scores = ForgettingScores.load(tmp_path / "out/stages/0/experts")
    assert scores.counts.shape == (2, 36)
    assert scores.epochs == 4


def test_mtt_trains_each_stage_on_its_own_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = trainings(monkeypatch)
    seen: list[Tensor] = []
    before = TrajectoryMatcher.__init__

    def noting(self: TrajectoryMatcher, *given: Any, **named: Any) -> None:
        seen.append(given[3].clone())
        before(self, *given, **named)

    monkeypatch.setattr(TrajectoryMatcher, "__init__", noting)
    for transition in (True, False):
        done.clear()
        seen.clear()
        out = tmp_path / f"{transition}"
        made = pdd(out, **{**COUNTED, "difficulty_interval": 0.3}, transition=transition, forgetting_networks=3)
        whole = Problem(
            source(), get_method("mtt").configure(None, **{**MTT, "ipc": 1, "test": "none"}), RunOptions(device="cpu"),
            "mtt", measured=True,
        )  # fmt: skip
        scores = ForgettingScores.load(out / "stages/forgetting", whole.fingerprint)
        assert scores.counts.shape == (3, 36)
        chosen = [scores.mean < 0.3, scores.mean >= 0.3]
        sizes = [int(each.sum()) for each in chosen]
        assert 3 <= sizes[0] < 36
        assert made.manifest["stage_pictures"] == sizes
        assert [each for each in done if each[2]] == [
            ("stages/forgetting", 36, 12), ("0/experts", sizes[0], 8), ("1/experts", sizes[1], 8),
        ]  # fmt: skip
        for images, each in zip(seen, chosen, strict=True):
            assert belong(images, whole.real()[0][each])
        assert not (out / "stages/forgetting/experts.safetensors").exists()
        assert not (out / "stages/1/experts").exists()


def test_counting_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pdd(tmp_path / "whole", **COUNTED)
    calls: list[int] = []
    before = experts.ForgettingStates.save

    def stopping(self: Any, *given: Any) -> None:
        calls.append(0)
        if len(calls) == 6:  # in the second network
            raise KeyboardInterrupt
        before(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(experts.ForgettingStates, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "out", **COUNTED)
    made = pdd(tmp_path / "out", **COUNTED, resume=True)
    assert torch.equal(made.extras["trained_images"], whole.extras["trained_images"])
    assert made.manifest == whole.manifest
    # scores that a run counted can be given to another
    shutil.copytree(tmp_path / "whole/stages/forgetting", tmp_path / "scores")
    again = pdd(tmp_path / "again", **{**COUNTED, "forgetting": str(tmp_path / "scores")})
    assert torch.equal(again.extras["trained_images"], whole.extras["trained_images"])


def test_other_bases_count_with_networks_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = trainings(monkeypatch)
    given: list[ForgettingScores] = []

    def half(self: ForgettingScores, k: int, *rest: Any) -> Tensor:
        given.append(self)
        return torch.arange(36) % 2 == k - 1

    monkeypatch.setattr(ForgettingScores, "stage", half)
    made = ddfast.distill(
        "pdd", source(), out=tmp_path / "out", base="dm", stages=2, ipc_per_stage=1, transition_epochs=1, pool=1,
        base_option={**SMOKE, "iterations": 1, "batch_real": 8, "width": 8}, forgetting="train", forgetting_networks=2,
        forgetting_epochs=6, quiet=True,
    )  # fmt: skip
    assert done == [("stages/forgetting", 36, 12)]
    assert given[0].epochs == 6
    assert made.manifest["stage_pictures"] == [18, 18]


def test_rate_of_the_rate_from_the_second_stage_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    before = TrajectoryMatcher.__init__

    def noting(self: TrajectoryMatcher, *given: Any, **named: Any) -> None:
        seen.append(given[2].lr_lr)
        before(self, *given, **named)

    monkeypatch.setattr(TrajectoryMatcher, "__init__", noting)
    options = {"test": "none", "iterations": 1}
    made = pdd(tmp_path / "out", stages=3, ipc_per_stage=1, options=options, lr_lr_later=1e-5)
    assert seen == [1e-4, 1e-5, 1e-5]
    assert made.manifest["config"]["lr_lr_later"] == 1e-5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"difficulty_interval": 0.0}, "difficulty_interval: got 0.0"),
        ({"difficulty_scope": "some"}, "difficulty_scope: got 'some', expected one of all, pool"),
        ({"forgetting_epochs": 0}, "forgetting_epochs: got 0"),
        ({"forgetting": "train", "base_option": {"buffers": "there"}}, "forgetting: with difficulty_scope=all"),
        ({"base": "dm", "lr_lr_later": 1e-5}, "lr_lr_later: got 1e-05, but base dm learns no rate"),
    ],
)
def test_wrong_settings(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PDDConfig(**given)
