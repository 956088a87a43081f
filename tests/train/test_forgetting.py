"""Forgetting scores: the count of correct -> wrong against a plain transcription, resumption, and the partition."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError, seeds
from ddfast.train import forgetting
from ddfast.train.dsa import STRATEGY, apply_dsa, draw_dsa
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.forgetting import FORGETTING_FILE, STATES_FOLDER, ForgettingScores
from ddfast.train.trajectories import TrajectoryStore

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
CONFIG = ExpertConfig(experts=3, epochs=6, batch_size=8, lr=0.3, dsa=STRATEGY)


def pictures() -> tuple[Tensor, Tensor]:
    """Noisy pictures of three classes, so that some are forgotten and some never learned."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(30) % 3
    images = torch.randn(30, 3, 8, 8, generator=generator)
    images[torch.arange(30), labels] += 0.7
    return images, labels


def presentations(number: int) -> np.ndarray:
    """bool [N, epochs]: whether expert ``number`` is right each time it sees an example, by plain torch and SGD."""
    images, labels = pictures()
    seen = np.zeros((30, 6), dtype=bool)
    generator = torch.Generator().manual_seed(number)
    module = NET.module(NET.init(generator))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
    for epoch in range(6):
        order = torch.from_numpy(seeds.permutation(0, f"expert {number}", epoch, 30))
        for place, index in enumerate(order.split(8)):
            draw = draw_dsa(
                STRATEGY, len(index), (8, 8), seed=0, epoch=epoch, step=place, stream=f"expert {number}/dsa"
            )
            logits = module(apply_dsa(images[index], draw))
            seen[index.numpy(), epoch] = (logits.argmax(1) == labels[index]).numpy()
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, labels[index]).backward()
            optimizer.step()
    return seen


def starts() -> Tensor:
    return torch.stack([NET.init(torch.Generator().manual_seed(k)) for k in range(3)])


def train(out: Path, together: int = 1, config: ExpertConfig = CONFIG) -> TrajectoryStore:
    return train_experts(
        NET, *pictures(), config, out, starts=starts(), pictures="abc", together=together, forgetting=True, quiet=True
    )


@pytest.mark.parametrize("together", [1, 2])
def test_counts_are_those_of_toneva(tmp_path: Path, together: int) -> None:
    train(tmp_path, together)
    scores = ForgettingScores.load(tmp_path, "abc")
    assert not (tmp_path / STATES_FOLDER).exists()
    wanted = []
    for number in range(3):
        seen = presentations(number)
        events = (np.diff(seen.astype(int), axis=1) == -1).sum(1)
        assert scores.counts[number].tolist() == events.tolist()
        assert scores.learned[number].tolist() == seen.any(1).tolist()
        wanted.append(np.where(seen.any(1), events, 6))
    np.testing.assert_allclose(scores.mean.numpy(), np.mean(wanted, 0), rtol=1e-6)
    assert int(scores.counts.sum()) > 0
    assert int((~scores.learned).sum()) > 0


class Stop(Exception):
    pass


@pytest.mark.parametrize("point", ["before the snapshot", "after it", "while merging"])
def test_stopped_anywhere_the_scores_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    train(tmp_path / "whole")
    left = 0
    write, put = TrajectoryStore.write, forgetting.atomic_write_bytes

    def tick() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise Stop

    def writing(self: TrajectoryStore, expert: int, epoch: int, theta: Tensor) -> None:
        if point == "before the snapshot":
            tick()
        write(self, expert, epoch, theta)
        if point == "after it":
            tick()

    def putting(path: Path, data: bytes) -> None:
        if point == "while merging" and path.name == FORGETTING_FILE:
            tick()
        put(path, data)

    monkeypatch.setattr(TrajectoryStore, "write", writing)
    monkeypatch.setattr(forgetting, "atomic_write_bytes", putting)
    for left in (1,) if point == "while merging" else (1, 2, 3, 4, 5):  # noqa: B007
        with pytest.raises(Stop):
            train(tmp_path / "stopped", together=2)
    left = -1
    train(tmp_path / "stopped", together=2)
    name = FORGETTING_FILE
    assert (tmp_path / "stopped" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "stopped" / STATES_FOLDER).exists()


def test_experts_without_scores_are_not_taken_for_scored(tmp_path: Path) -> None:
    given = (NET, *pictures(), replace(CONFIG, experts=1), tmp_path)
    train_experts(*given, quiet=True)
    with pytest.raises(RunError, match="expert 0 was trained without forgetting scores"):
        train_experts(*given, forgetting=True, quiet=True)
    with pytest.raises(FileNotFoundError, match="forgetting=True"):
        ForgettingScores.load(tmp_path)


def test_scores_of_other_pictures_are_refused(tmp_path: Path) -> None:
    train(tmp_path, config=replace(CONFIG, epochs=1))
    assert ForgettingScores.load(tmp_path / FORGETTING_FILE).fingerprint == "abc"
    with pytest.raises(RunError, match="scores of pictures abc, expected xyz"):
        ForgettingScores.load(tmp_path, "xyz")
    (tmp_path / FORGETTING_FILE).write_bytes(b"nonsense")
    with pytest.raises(RunError, match="is no file of forgetting scores"):
        ForgettingScores.load(tmp_path, "abc")


def scores(*rows: list[int], learned: list[bool] | None = None) -> ForgettingScores:
    counts = torch.tensor(rows, dtype=torch.int16)
    known = torch.ones_like(counts, dtype=torch.bool) if learned is None else torch.tensor([learned] * len(rows))
    return ForgettingScores(counts, known, 50, "abc")


def test_stages_part_the_examples() -> None:
    labels = torch.tensor([0, 0, 0, 0, 0, 0])
    known = scores([0, 9, 10, 19, 20, 0], [0, 10, 10, 20, 40, 0], learned=[True] * 5 + [False])
    parts = [known.stage(k, 10, 3, labels) for k in (1, 2, 3)]
    assert [torch.nonzero(part)[:, 0].tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]  # 9.5 and 19.5 below
    assert known.never_learned.tolist() == [False] * 5 + [True]
    assert torch.nonzero(known.stage(1, 10, 1, labels))[:, 0].tolist() == list(range(6))


def test_an_empty_class_is_named() -> None:
    known = scores([0, 12, 3, 25])
    labels = torch.tensor([0, 1, 0, 0])
    with pytest.raises(ValueError, match=r"class 1 has no example .* \[0, 10\) \(stage 1 of 3\)"):
        known.stage(1, 10, 3, labels)
    with pytest.raises(ValueError, match=r"class cat, dog has no example .* \[30, infinity\) \(stage 2 of 2\)"):
        known.stage(2, 30, 2, labels, ["cat", "dog"])
    for k, interval, labels_, name in ((0, 10, labels, "k"), (4, 10, labels, "k"), (1, 0, labels, "interval"),
                                       (1, 10, labels[:2], "labels")):  # fmt: skip
        with pytest.raises(ValueError, match=f"{name}: got"):
            known.stage(k, interval, 3, labels_)
