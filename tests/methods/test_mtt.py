"""MTT: the loop against a plain transcription, restarts, presets, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ddfast
from ddfast.data import space
from ddfast.data.space import Space, measured_normalization
from ddfast.data.squares import whole_images
from ddfast.methods import _matching_config, get_method
from ddfast.methods.mtt import PRESETS, MTTConfig, pipeline
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError
from ddfast.train import NonFiniteLossError
from ddfast.train.adjoint import MatchGraphs
from ddfast.train.dsa import apply_dsa
from ddfast.train.experts import ExpertConfig, train_experts
from ddfast.train.flat_student import train_flat
from ddfast.train.matching.trajectory import TrajectoryMatcher, TrajectorySettings
from ddfast.train.trajectories import TrajectoryStore, write_replay_buffer
from tests.methods.matching_case import source
from tests.train.graph_stand_in import StandIn

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
SETTINGS: dict[str, Any] = {
    "ipc": 2, "size": 8, "depth": 2, "width": 16, "zca": False, "experts": 2, "expert_train_epochs": 3,
    "expert_lr": 0.05, "expert_batch": 8, "syn_steps": 3, "expert_epochs": 1, "max_start_epoch": 2, "batch_syn": 4,
    "lr_img": 5.0, "lr_lr": 1e-6, "lr_teacher": 0.05, "iterations": 6, "eval_every": 2, "eval_students": 1,
    "eval_epochs": 3,
}  # fmt: skip


def store_of(path: Path) -> TrajectoryStore:
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(24, 3, 8, 8, generator=generator), torch.arange(24) % 3
    return train_experts(NET, images, labels, ExpertConfig(2, 3, 8, 0.05, dsa=""), path, quiet=True)


def matching(path: Path, *, soft_labels: bool = False, frozen: int = 0, **changes: Any) -> TrajectoryMatcher:
    names = {f.name for f in fields(TrajectorySettings)}
    chosen = {name: value for name, value in {**SETTINGS, **changes}.items() if name in names}
    generator = torch.Generator().manual_seed(5)
    images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.arange(3).repeat_interleave(2)
    logits = torch.randn(6, 3, generator=generator) if soft_labels else None
    return TrajectoryMatcher(
        NET, store_of(path), TrajectorySettings(**chosen), images[frozen:], labels[frozen:], logits=logits,
        frozen=images[:frozen], frozen_labels=labels[:frozen],
    )  # fmt: skip


def transcription(ours: TrajectoryMatcher, iterations: int) -> tuple[list[float], Tensor, Tensor, Tensor]:
    """MTT's loop in plain torch, float64, on the same draws: create_graph, and torch.optim.SGD for images and rate."""
    config, state = ours.settings, ours.state
    images = state.images.double().requires_grad_()
    rate = state.lr.double().requires_grad_()
    logits = state.logits.double().requires_grad_()
    optimizers = [
        torch.optim.SGD([each], lr=lr, momentum=0.5)
        for each, lr in ((images, config.lr_img), (rate, config.lr_lr), (logits, config.lr_label))
    ]
    losses = []
    for number in range(iterations):
        state.iteration = number
        expert, epoch = ours._draw()
        start, target = (ours.store.snapshot(expert, e).double() for e in (epoch, epoch + config.expert_epochs))
        theta = start.clone().requires_grad_()
        for step in ours._steps():
            x = images[step.index] if step.draw is None else apply_dsa(images[step.index], step.draw)
            y = logits[step.index].softmax(1) if ours.learns_labels else ours.labels[step.index]
            (gradient,) = torch.autograd.grad(F.cross_entropy(NET.logits(theta, x), y), theta, create_graph=True)
            theta = theta - rate * gradient
        loss = (theta - target).square().sum() / (start - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    state.iteration = 0
    return losses, images.detach(), rate.detach(), logits.detach()


@pytest.mark.parametrize("soft_labels", [False, True])
def test_three_iterations_are_those_of_the_transcription(tmp_path: Path, soft_labels: bool) -> None:
    ours = matching(tmp_path, soft_labels=soft_labels)
    losses, images, rate, logits = transcription(ours, 3)
    assert [ours.advance() for _ in range(3)] == pytest.approx(losses, rel=1e-4)
    torch.testing.assert_close(ours.state.images.double(), images, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(ours.state.lr.double(), rate, rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.state.logits.double(), logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("options", [{"soft_labels": True}, {"frozen": 3}])
def test_replayed_iterations_are_the_eager_ones(tmp_path: Path, options: dict[str, Any]) -> None:
    eager, replayed = matching(tmp_path, **options), matching(tmp_path, **options)
    record = StandIn()
    replayed.match = MatchGraphs(replayed.net, record=record, label_gradient=replayed.learns_labels)
    losses = [replayed.advance() for _ in range(4)]
    assert losses == pytest.approx([eager.advance() for _ in range(4)], rel=1e-5)
    assert record.recorded == 1
    torch.testing.assert_close(replayed.state.images, eager.state.images, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(replayed.state.lr, eager.state.lr)


def test_checkpoint_goes_on_with_the_same_numbers(tmp_path: Path) -> None:
    whole, part = matching(tmp_path, ema=0.5), matching(tmp_path, ema=0.5)
    losses = [whole.advance() for _ in range(4)]
    assert [part.advance() for _ in range(2)] == losses[:2]
    state, other = part.state_dict(), matching(tmp_path, ema=0.5)
    other.load_state_dict(state)
    assert [other.advance() for _ in range(2)] == losses[2:]
    assert torch.equal(other.state.images, whole.state.images)
    assert torch.equal(other.state.average, whole.state.average)


def test_batches_cover_the_set_and_a_short_one_comes_first(tmp_path: Path) -> None:
    ours = matching(tmp_path, syn_steps=4)
    first, second, third, fourth = (step.index.tolist() for step in ours._steps())
    assert [len(x) for x in (first, second, third, fourth)] == [2, 4, 2, 4]
    assert sorted(first + second) == sorted(third + fourth) == list(range(6))


def test_every_expert_is_used_in_each_pass_and_epochs_stay_in_the_window(tmp_path: Path) -> None:
    ours = matching(tmp_path)
    drawn = []
    for number in range(20):
        ours.state.iteration = number
        drawn.append(ours._draw())
    assert all({drawn[k][0], drawn[k + 1][0]} == {0, 1} for k in range(0, 20, 2))
    assert {epoch for _, epoch in drawn} == {0, 1}


def test_frozen_images_stand_in_front_and_do_not_move(tmp_path: Path) -> None:
    whole, ours = matching(tmp_path), matching(tmp_path, frozen=2)
    assert ours.student_set()[0].shape == whole.student_set()[0].shape
    for each in (whole, ours):
        each.advance()
    # the same draws on the same images: what may move moves alike
    torch.testing.assert_close(ours.state.images, whole.state.images[2:])
    assert torch.equal(ours.student_set()[0][:2], ours.frozen)
    assert torch.equal(ours.student_set()[1], torch.arange(3).repeat_interleave(2))
    with pytest.raises(ValueError, match="learned labels do not go with frozen images"):
        matching(tmp_path, frozen=2, soft_labels=True)


def test_run_and_resume_end_in_the_same_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ddfast.distill("mtt", source(), out=tmp_path / "whole", **SETTINGS, quiet=True)
    advance = TrajectoryMatcher.advance

    def stopping(self: TrajectoryMatcher) -> float:
        if self.state.iteration == 3:
            raise KeyboardInterrupt
        return advance(self)

    with monkeypatch.context() as patch:
        patch.setattr(TrajectoryMatcher, "advance", stopping)
        with pytest.raises(KeyboardInterrupt):
            ddfast.distill("mtt", source(), out=tmp_path / "stopped", **SETTINGS, quiet=True)
    with pytest.raises(RunError, match="resume"):
        ddfast.distill("mtt", source(), out=tmp_path / "stopped", **SETTINGS, quiet=True)
    stopped = ddfast.distill("mtt", source(), out=tmp_path / "stopped", **SETTINGS, quiet=True, resume=True)
    assert torch.equal(whole.images, stopped.images)
    assert torch.equal(whole.extras["trained_images"], stopped.extras["trained_images"])
    assert torch.equal(whole.extras["lr"], stopped.extras["lr"])
    assert whole.manifest["losses"] == stopped.manifest["losses"]
    assert whole.ipc == 2
    assert [test["iteration"] for test in whole.manifest["tests"]] == [2, 4, 6]
    assert (tmp_path / "whole/images_00006.png").exists()
    assert not (tmp_path / "whole/checkpoint.pt").exists()
    assert whole.normalization == measured_normalization(whole_images(source(), 8, 20)[0])
    assert torch.equal(Space(whole.normalization).invert(whole.extras["trained_images"]), whole.images)


@pytest.mark.parametrize("zca", [True, False])
def test_without_held_out_pictures_the_last_images_are_kept(tmp_path: Path, zca: bool) -> None:
    made = ddfast.distill(
        "mtt", source(), out=tmp_path / "out", **{**SETTINGS, "zca": zca, "test": "none", "ipc": 12}, quiet=True
    )
    assert made.ipc == 12  # all there are: none is held out
    assert [sorted(test) for test in made.manifest["tests"]] == [["iteration", "lr"]] * 3
    assert made.manifest["experts_trained_on"] == "the run's training pictures"


def test_stopped_in_the_middle_of_a_test_it_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ddfast.distill("mtt", source(), out=tmp_path / "whole", **SETTINGS, quiet=True)
    calls = []

    def stopping(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(kwargs["stream"])
        if len(calls) in (2, 4):
            raise KeyboardInterrupt
        return train_flat(*args, **kwargs)

    monkeypatch.setattr(_matching_config, "train_flat", stopping)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            ddfast.distill("mtt", source(), out=tmp_path / "stopped", **SETTINGS, quiet=True, resume=resume)
    stopped = ddfast.distill("mtt", source(), out=tmp_path / "stopped", **SETTINGS, quiet=True, resume=True)
    assert stopped.manifest["tests"] == whole.manifest["tests"]
    assert torch.equal(stopped.images, whole.images)


def test_images_that_students_diverge_on_count_as_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverging(*_: Any, **__: Any) -> Tensor:
        raise NonFiniteLossError("diverged")

    monkeypatch.setattr(_matching_config, "train_flat", diverging)
    made = ddfast.distill("mtt", source(), out=tmp_path / "out", **SETTINGS, quiet=True)
    assert [test["top1"] for test in made.manifest["tests"]] == [pytest.approx(1 / 3)] * 3


def test_whitened_images_come_back_as_pictures(tmp_path: Path) -> None:
    made = ddfast.distill(
        "mtt", source(), out=tmp_path / "out", **{**SETTINGS, "zca": True, "iterations": 1}, quiet=True
    )
    assert made.manifest["space"] == "zca"
    means = made.images.float().mean((1, 2))  # of the colours: the class's own stands out
    assert (means.argmax(1) == made.labels).all()
    stored = ddfast.load(tmp_path / "out")
    assert stored.whitening is not None
    white = stored.whitening.apply(made.images)  # what the pixels round
    assert (white - stored.extras["trained_images"]).abs().mean() < 0.1


def test_learned_rate_that_turns_negative_stops_with_the_state_before(tmp_path: Path) -> None:
    ours = matching(tmp_path, lr_lr=1e6)
    kept = []

    def go_on() -> None:
        for _ in range(20):
            kept.append((ours.state.lr.item(), ours.state.iteration))
            ours.advance()

    with pytest.raises(NonFiniteLossError, match=r"iteration \d+ .*learning rate went from .* to -.*lower lr_lr"):
        go_on()
    assert (ours.state.lr.item(), ours.state.iteration) == kept[-1]
    assert kept[-1][0] > 0


def test_learned_labels_that_overflow_stop_with_the_state_before(tmp_path: Path) -> None:
    ours = matching(tmp_path, soft_labels=True, lr_label=1e38)
    ours.advance()
    ours.state.velocities[2].fill_(3e38)
    with pytest.raises(NonFiniteLossError, match=r"iteration 2 .*learned labels are not finite.*lower lr_label"):
        ours.advance()
    assert ours.state.iteration == 1


def test_not_a_number_stops_with_the_state_before(tmp_path: Path) -> None:
    ours = matching(tmp_path)
    ours.advance()
    ours.state.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"iteration 2 .*the matching loss became nan"):
        ours.advance()
    assert ours.state.iteration == 1


def test_buffers_say_how_their_pictures_were_normalised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {**SETTINGS, "iterations": 1, "test": "none"}
    made = ddfast.distill("mtt", source(), out=tmp_path / "one", **settings, quiet=True)
    there, settings["buffers"] = TrajectoryStore.open(tmp_path / "one/experts"), str(tmp_path / "one/experts")
    assert there.info["normalization"] == made.manifest["normalization"]
    ddfast.distill("mtt", source(), **settings, quiet=True)
    monkeypatch.setattr(space, "_KNOWN", ((re.compile("colours"), space.CIFAR),))
    with pytest.raises(ValueError, match=r"buffers: .* normalised by mean .* but the run's are by mean \[0\.4914"):
        ddfast.distill("mtt", source(), **settings, quiet=True)
    store_of(tmp_path / "silent")
    ddfast.distill("mtt", source(), **{**settings, "buffers": str(tmp_path / "silent")}, quiet=True)


def test_replay_buffers_of_mtt(tmp_path: Path) -> None:
    store = store_of(tmp_path / "own")
    buffers = tmp_path / "COLOURS_NO_ZCA"
    buffers.mkdir()
    lists = [[NET.split(store.snapshot(k, e)) for e in range(4)] for k in range(2)]
    write_replay_buffer(buffers / "replay_buffer_0.pt", lists)
    settings = {**SETTINGS, "buffers": str(buffers), "iterations": 2}
    made = ddfast.distill("mtt", source(), out=tmp_path / "out", **settings, quiet=True)
    assert len(made.manifest["losses"]) == 2
    assert made.manifest["experts_trained_on"].startswith("other pictures too")
    with pytest.raises(ValueError, match=r"has experts of normalized pictures, but the run's are zca"):
        ddfast.distill("mtt", source(), out=tmp_path / "zca", **{**settings, "zca": True}, quiet=True)
    with pytest.raises(ValueError, match="tensors: got shapes"):
        ddfast.distill("mtt", source(), out=tmp_path / "wide", **{**settings, "width": 32}, quiet=True)
    with pytest.raises(ValueError, match="has 3 epochs, but max_start_epoch 4 and expert_epochs 1 need 4"):
        ddfast.distill("mtt", source(), out=tmp_path / "long",
                       **{**settings, "max_start_epoch": 4, "expert_train_epochs": 9}, quiet=True)  # fmt: skip
    with pytest.raises(FileNotFoundError, match="holds neither"):
        ddfast.distill("mtt", source(), out=tmp_path / "none", **{**settings, "buffers": str(tmp_path)}, quiet=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_start_epoch": 4}, "max_start_epoch: got 4 with expert_epochs 1"),
        ({"min_start_epoch": 2}, "min_start_epoch: got 2 with max_start_epoch 2"),
        ({"lr_img": -1.0}, "lr_img: got -1.0"),
        ({"init": "zeros"}, "init: got 'zeros'"),
        ({"holdout": 1.0}, "holdout: got 1.0"),
        ({"ipc": 0}, "ipc: got 0"),
        ({"precision": "BF16"}, "precision: got 'BF16'"),
        ({"memory": "stroe"}, "memory: got 'stroe'"),
        ({"batch_syn": 0}, "batch_syn: got 0"),
        ({"dsa": "blur"}, "dsa: got 'blur'"),
    ],
)
def test_wrong_settings(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MTTConfig(**{**SETTINGS, **change})


# steps, expert epochs, max start, batch, lr_img, lr_lr, lr at the start, zca: the authors' list, and the older rows
ROWS = {
    "cifar10-ipc1": (50, 2, 2, None, 100, 1e-7, 0.01, True),
    "cifar10-ipc10": (30, 2, 20, None, 100, 1e-5, 0.001, True),
    "cifar10-ipc50": (30, 2, 40, None, 1000, 1e-5, 0.001, False),
    "cifar10-ipc1-2022": (50, 2, 5, None, 1000, 1e-7, 0.01, True),
    "cifar10-ipc10-2022": (30, 2, 15, None, 1000, 1e-5, 0.01, True),
    "cifar100-ipc1": (20, 3, 20, None, 1000, 1e-5, 0.01, True),
    "cifar100-ipc10": (20, 2, 20, None, 1000, 1e-5, 0.01, False),
    "cifar100-ipc50": (80, 2, 40, 125, 1000, 1e-5, 0.01, True),
    "tinyimagenet-ipc1": (10, 2, 10, None, 1e4, 1e-4, 0.01, False),
    "tinyimagenet-ipc10": (20, 2, 40, 200, 1e4, 1e-4, 0.01, False),
    "tinyimagenet-ipc50": (20, 2, 40, 300, 1e4, 1e-4, 0.01, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_presets_are_the_published_rows(name: str) -> None:
    row = get_method("mtt").configure(name)
    assert row.preset == name
    assert row.ipc == int(name.split("ipc")[1].split("-")[0])
    values = (
        row.syn_steps,
        row.expert_epochs,
        row.max_start_epoch,
        row.batch_syn,
        row.lr_img,
        row.lr_lr,
        row.lr_teacher,
    )
    assert (*values, row.zca) == ROWS[name]
    assert (row.size, row.depth) == ((64, 4) if name.startswith("tiny") else (32, 3))
    assert (row.experts, row.expert_train_epochs, row.iterations, row.momentum) == (100, 50, 5000, 0.5)
    assert set(PRESETS) == {*ROWS, "smoke"}


def test_too_few_pictures() -> None:
    with pytest.raises(ValueError, match="ipc=50 needs 50 pictures of each class"):
        ddfast.distill("mtt", source(), **{**SETTINGS, "ipc": 50}, quiet=True)
    with pytest.raises(ValueError, match=r"ipc=12 needs .* beside those held out \(holdout 0\.1\).*red 11"):
        ddfast.distill("mtt", source(), **{**SETTINGS, "ipc": 12}, quiet=True)


def test_an_observer_is_refused() -> None:
    with pytest.raises((TypeError, ValueError), match="observer"):
        ddfast.distill("mtt", source(), observer="conv3", **SETTINGS, quiet=True)


def test_pipeline_names_its_outputs() -> None:
    assert "checkpoint.pt" in pipeline.OUTPUTS
