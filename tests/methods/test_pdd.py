"""PDD over MTT and over a base of a few lines: stages against a plain transcription, restarts, pools, and refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import ddfast
from ddfast.methods import _matching_config, get_method
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import RunError, seeds
from ddfast.train.adjoint.planes import PlaneStep
from ddfast.train.dsa import apply_dsa, draw_dsa
from ddfast.train.flat_student import FlatRecipe, fresh_theta, train_flat
from ddfast.train.matching.distribution import DistributionMatcher
from ddfast.train.matching.gradient import GradientMatcher
from ddfast.train.matching.idc import IDCMatcher
from ddfast.train.matching.trajectory import TrajectoryMatcher
from ddfast.train.trajectories import TrajectoryStore
from tests.methods.matching_case import SETTINGS, DriftConfig, DriftMatcher, drift_method, source
from tests.methods.pdd_case import MTT, pdd

NET = FlatConvNet(3, 8, depth=2, width=8)


@pytest.fixture
def _drift() -> Iterator[None]:
    with drift_method({"smoke": SETTINGS}):
        yield


def trained(made: ddfast.DistilledSet, stage: int) -> Tensor:
    return made.extras["trained_images"][torch.tensor(made.manifest["stages"]) == stage]


def passes(theta: Tensor, images: Tensor, labels: Tensor, epochs: int, *, streams: str, dsa: str, batch: int, lr: float,
           momentum: float = 0.0, decay: float = 0.0, drop: int = -1) -> list[Tensor]:  # fmt: skip
    """SGD of the plain kind on the draws of ``streams``; theta at the start and after each pass."""
    theta = theta.clone().requires_grad_()
    found = [theta.detach().clone()]
    optimizer = torch.optim.SGD([theta], lr=lr, momentum=momentum, weight_decay=decay)
    for epoch in range(epochs):
        if epoch == drop:
            optimizer.param_groups[0]["lr"] = lr / 10  # the momentum goes on
        order = torch.from_numpy(seeds.permutation(0, f"{streams}", epoch, len(images)))
        for step, index in enumerate(order.split(batch)):
            name = streams.removesuffix("/order") + "/dsa"
            draw = draw_dsa(dsa, len(index), (8, 8), seed=0, epoch=epoch, step=step, stream=name)
            optimizer.zero_grad()
            F.cross_entropy(NET.logits(theta, apply_dsa(images[index], draw)), labels[index]).backward()
            optimizer.step()
        found.append(theta.detach().clone())
    return found


def second_stage(out: Path, dsa: str) -> tuple[Tensor, float, list[float]]:
    """Stage 2 of PDD on MTT in plain torch and float64: networks trained on the first set, experts from there on the
    real pictures, and three iterations on both sets of which only the second moves."""
    made = ddfast.load(out)
    problem = Problem(source(), get_method("mtt").configure(None, **{**MTT, "ipc": 2, "test": "none"}),
                      RunOptions(device="cpu"), "mtt", measured=True)  # fmt: skip
    real, labels = problem.real()
    first, classes = trained(made, 0).double(), torch.arange(3).repeat_interleave(2)
    origins = TrajectoryStore.open(out / "stages/0/experts")
    experts, lr = [], made.manifest["stage_lrs"][0]
    for k in range(2):
        start = passes(origins.snapshot(k, 0).double(), first, classes, 4, streams=f"pdd/transition 1 {k}/order",
                       dsa=dsa, batch=256, lr=lr, momentum=0.9, decay=5e-4, drop=3)[-1]  # fmt: skip
        experts.append(passes(start, real.double(), labels, 2, streams=f"expert {k}", dsa=dsa, batch=8, lr=0.05))
    images = problem.initial(real, 1)[0].double().requires_grad_()
    rate = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    optimizers = [torch.optim.SGD([images], lr=5.0, momentum=0.5), torch.optim.SGD([rate], lr=1e-4, momentum=0.5)]
    losses = []
    for number in range(3):
        expert = int(seeds.permutation(0, "mtt/stage 1/experts", number // 2, 2)[number % 2])
        epoch = int(seeds.integers(seeds.counter_bits(0, "mtt/stage 1/start", number), 2)[0])
        theta = begin = experts[expert][epoch].clone().requires_grad_()
        target = experts[expert][epoch + 1]
        chunks: list[Tensor] = []
        for step in range(3):
            if not chunks:  # batches of one set's size, from both sets
                order = seeds.permutation(0, "mtt/stage 1/order", number * 3 + step, 12)
                chunks = list(torch.from_numpy(order).split(6))
            index = chunks.pop()
            draw = draw_dsa(dsa, len(index), (8, 8), seed=0, epoch=number, step=step, stream="mtt/stage 1/dsa")
            x = apply_dsa(torch.cat([first, images])[index], draw)
            loss = F.cross_entropy(NET.logits(theta, x), classes.repeat(2)[index])
            theta = theta - rate * torch.autograd.grad(loss, theta, create_graph=True)[0]
        loss = (theta - target).square().sum() / (begin.detach() - target).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.item())
    return images.detach(), rate.item(), losses


def test_second_stage_is_that_of_the_transcription(tmp_path: Path) -> None:
    dsa = "color_crop_flip"
    made = pdd(tmp_path / "out", options={"iterations": 3, "test": "none", "dsa": dsa})
    images, rate, losses = second_stage(tmp_path / "out", dsa)
    assert made.manifest["losses"][1] == pytest.approx(losses, rel=1e-3)
    base = DriftConfig(**{**SETTINGS, "ipc": 2, "test": "none"})
    begun = Problem(source(), base, RunOptions(device="cpu"), "mtt", measured=True)
    moved = images - begun.initial(begun.real()[0], 1)[0]
    assert moved.abs().max() > 0.01
    difference = trained(made, 1).double() - images
    assert difference.norm() < 2e-3 * moved.norm()
    assert made.manifest["stage_lrs"][1] - 0.05 == pytest.approx(rate - 0.05, rel=1e-2)


def test_first_stage_is_the_base_method_and_stays(tmp_path: Path) -> None:
    made = pdd(tmp_path / "pdd", stages=3)
    alone = ddfast.distill("mtt", source(), out=tmp_path / "mtt", **MTT, ipc=2, quiet=True)
    assert torch.equal(trained(made, 0), alone.extras["trained_images"])
    assert made.manifest["stage_lrs"][0] == alone.manifest["lr"]
    assert made.manifest["losses"][0] == alone.manifest["losses"]
    assert made.manifest["stages"] == [0] * 6 + [1] * 6 + [2] * 6
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2] * 3
    assert made.ipc == 6
    assert made.extras["lr"].tolist() == pytest.approx(made.manifest["stage_lrs"])
    assert made.manifest["lr"] == made.manifest["stage_lrs"][-1]
    assert [test["iteration"] for test in made.manifest["tests"] if test["stage"] == 2] == [2, 4]
    parts = json.loads((tmp_path / "pdd/timings.json").read_text())["parts"]
    assert [f"{each['section']} {each['part']}" for each in parts] == [
        " pictures", "stage 1 experts", "stage 1 matching", "stage 1 tests", "stage 2 transitions", "stage 2 experts",
        "stage 2 matching", "stage 2 tests", "stage 3 transitions", "stage 3 experts", "stage 3 matching",
        "stage 3 tests",
    ]  # fmt: skip
    assert all(each["wall"] > 0 for each in parts)
    left = {path.name for path in (tmp_path / "pdd/stages/2").iterdir()}
    assert left == {"images_00002.png", "images_00004.png"}


def test_earlier_sets_condition_the_second_stage(tmp_path: Path) -> None:
    sets = [
        pdd(tmp_path / f"{conditioning}", conditioning=conditioning, transition=False, options={"test": "none"})
        for conditioning in (True, False)
    ]
    assert torch.equal(trained(sets[0], 0), trained(sets[1], 0))
    assert not torch.allclose(trained(sets[0], 1), trained(sets[1], 1), atol=1e-3)


def test_tests_of_a_stage_train_on_all_sets_from_its_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, tuple[int, Tensor]] = {}

    def noting(net: Any, theta: Tensor, images: Tensor, *rest: Any, **named: Any) -> Tensor:
        seen[named["stream"]] = (len(images), theta.clone())
        return train_flat(net, theta, images, *rest, **named)

    monkeypatch.setattr(_matching_config, "train_flat", noting)
    for conditioning in (True, False):
        seen.clear()
        pdd(tmp_path / f"{conditioning}", conditioning=conditioning, options={"eval_students": 2})
        assert [seen[f"mtt/student 2 {k}"][0] for k in (0, 1)] == [6, 6]
        assert [seen[f"mtt/stage 1/student 2 {k}"][0] for k in (0, 1)] == [12, 12]
        # expert k of the second stage, hence student k, begins where network k ended on the first set
        starts = [seen[f"pdd/transition 1 {k}"][1] for k in (0, 1)]
        assert all(torch.equal(start, fresh_theta(NET, 0, f"expert {k}")) for k, start in enumerate(starts))
        assert not torch.equal(seen["mtt/stage 1/student 2 0"][1], starts[0])


def test_cost_of_an_iteration_is_the_same_in_all_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    costs: list[list[int]] = []
    steps, first, second, advance = [0, 0], PlaneStep.first, PlaneStep.second, TrajectoryMatcher.advance

    def counted_first(self: PlaneStep, theta: Tensor, x: Tensor, *rest: Any, **named: Any) -> Any:
        steps[0] += len(x)
        return first(self, theta, x, *rest, **named)

    def counted_second(self: PlaneStep, *given: Any, **named: Any) -> Any:
        found = second(self, *given, **named)
        steps[1] += 0 if found.images is None else len(found.images)
        return found

    def counted(self: TrajectoryMatcher) -> float:
        steps[:] = [0, 0]
        loss = advance(self)
        costs.append(list(steps))
        return loss

    for owner, name, function in ((PlaneStep, "first", counted_first), (PlaneStep, "second", counted_second),
                                  (TrajectoryMatcher, "advance", counted)):  # fmt: skip
        monkeypatch.setattr(owner, name, function)
    pdd(tmp_path / "out", stages=3, options={"iterations": 2, "test": "none", "syn_steps": 6})
    assert [forward for forward, _ in costs] == [6 * 6] * 6  # steps of one set's size
    assert [backward for _, backward in costs] == [36, 36, 18, 18, 12, 12]  # of the images that may move


def stopped_at(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int) -> None:
    """The ``call``-th call (from 1) of a function raises KeyboardInterrupt instead."""
    before, calls = getattr(owner, name), []

    def stopping(*given: Any, **named: Any) -> Any:
        calls.append(0)
        if len(calls) == call:
            raise KeyboardInterrupt
        return before(*given, **named)

    patch.setattr(owner, name, stopping)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    pdd(out)
    return out


@pytest.fixture
def whole(folder: Path) -> ddfast.DistilledSet:
    return ddfast.load(folder)


def same(one: ddfast.DistilledSet, other: ddfast.DistilledSet) -> bool:
    tensors = all(torch.equal(one.extras[name], other.extras[name]) for name in ("trained_images", "lr"))
    return tensors and torch.equal(one.images, other.images) and one.manifest == other.manifest


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (TrajectoryStore, "write", 3),  # an expert of the first stage: 2 experts of 3 snapshots, 2 origins
        (TrajectoryMatcher, "advance", 4),
        (TrajectoryStore, "write", 8),  # the origins of the second stage's networks
        (_matching_config, "train_flat", 4),  # the second network's training on the first set, after 2 tests
        (TrajectoryStore, "write", 13),  # an expert of the second stage
        (TrajectoryMatcher, "advance", 7),
        (_matching_config, "train_flat", 5),  # a test of the second stage
        (Problem, "write", 1),
    ],
)
def test_stopped_anywhere_and_resumed_it_ends_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: ddfast.DistilledSet, owner: Any, name: str, call: int
) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, owner, name, call)
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "out")
    assert same(pdd(tmp_path / "out", resume=True), whole)


_KILLED = """
import os, sys
from pathlib import Path
from tests.methods.test_pdd import TrajectoryMatcher, pdd
advance, calls = TrajectoryMatcher.advance, []
def dying(self):
    calls.append(0)
    if len(calls) == 7:
        os._exit(9)
    return advance(self)
TrajectoryMatcher.advance = dying
pdd(Path(sys.argv[1]))
"""


def test_killed_and_resumed_it_ends_alike(tmp_path: Path, whole: ddfast.DistilledSet) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path / "out")], cwd=root, check=False)
    assert done.returncode == 9
    assert same(pdd(tmp_path / "out", resume=True), whole)
    assert same(pdd(tmp_path / "out", resume=True), whole)  # a finished run is left as it is


def test_networks_that_are_gone_are_not_made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, _matching_config, "train_flat", 3)  # between the stages
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "out")
    shutil.rmtree(tmp_path / "out/stages/0/starts")
    with pytest.raises(RunError, match=r"the networks that stage 0 began at are gone; start anew"):
        pdd(tmp_path / "out", resume=True)
    pdd(tmp_path / "out", overwrite=True, options={"iterations": 1, "test": "none"})


def test_experts_trained_longer_than_iterations_look_end_in_the_same_images(
    tmp_path: Path, whole: ddfast.DistilledSet
) -> None:
    assert same_images(pdd(tmp_path / "out", options={"expert_train_epochs": 3}), whole)


def test_resumed_with_other_settings_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        stopped_at(patch, TrajectoryMatcher, "advance", 5)
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "out")
    with pytest.raises(RunError, match=r"config\.base_config\.lr_img: the run has 5\.0, you ask for 7\.0"):
        pdd(tmp_path / "out", resume=True, options={"lr_img": 7.0})
    with pytest.raises(RunError, match=r"config\.stages: the run has 2, you ask for 3"):
        pdd(tmp_path / "out", resume=True, stages=3)
    with pytest.raises(RunError, match=r"config\.transition_epochs: the run has 3, you ask for 4"):
        pdd(tmp_path / "out", resume=True, transition_epochs=4)


@pytest.mark.usefixtures("_drift")
def test_a_pool_is_trained_on_from_stage_to_stage(tmp_path: Path) -> None:
    pdd(tmp_path / "out", base="drift", base_preset="smoke", stages=3, pool=2)
    matchers = DriftMatcher.made
    assert matchers[0].data.starts is None
    thetas = torch.stack([fresh_theta(matchers[0].data.net, 0, f"expert {k}") for k in range(2)])
    for stage in (1, 2):
        images, labels = matchers[stage - 1].student_set()
        recipe = FlatRecipe(3, 0.01, reset_momentum=False)
        thetas = torch.stack([
            train_flat(matchers[0].data.net, theta, images, labels, recipe, stream=f"pdd/transition {stage} {k}")
            for k, theta in enumerate(thetas)
        ])  # fmt: skip
        starts = matchers[stage].data.starts
        assert starts is not None
        torch.testing.assert_close(torch.stack([starts[k] for k in range(len(starts))]), thetas)
        assert torch.equal(matchers[stage].data.frozen, images)
        assert torch.equal(matchers[stage].data.frozen_labels, labels)


@pytest.mark.usefixtures("_drift")
def test_without_a_pool_every_iteration_trains_a_new_network_through_all_sets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings: list[tuple[str, int]] = []

    def noting(net: Any, theta: Tensor, images: Tensor, *rest: Any, **named: Any) -> Tensor:
        trainings.append((named["stream"], len(images)))
        return train_flat(net, theta, images, *rest, **named)

    monkeypatch.setattr(_matching_config, "train_flat", noting)
    settings: dict[str, Any] = {"base": "drift", "base_preset": "smoke", "stages": 3, "pool": 0}
    made = pdd(tmp_path / "out", **settings, options={"iterations": 3, "test": "none"})
    assert trainings == [
        *((f"pdd/fresh 1 {k}/transition 1", 6) for k in range(3)),
        *((f"pdd/fresh 2 {k}/transition {stage}", 6 * stage) for k in range(3) for stage in (1, 2)),
    ]
    with monkeypatch.context() as patch:
        stopped_at(patch, DriftMatcher, "halfway", 6)
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "stopped", **settings, options={"iterations": 3, "test": "none"})
    resumed = pdd(tmp_path / "stopped", **settings, options={"iterations": 3, "test": "none"}, resume=True)
    assert same_images(resumed, made)


def same_images(one: ddfast.DistilledSet, other: ddfast.DistilledSet) -> bool:
    return torch.equal(one.extras["trained_images"], other.extras["trained_images"])


@pytest.mark.usefixtures("_drift")
def test_switches_of_the_ablations(tmp_path: Path) -> None:
    for conditioning in (True, False):
        for transition in (True, False):
            DriftMatcher.made.clear()
            pdd(tmp_path / f"{conditioning}{transition}", base="drift", base_preset="smoke", pool=2,
                conditioning=conditioning, transition=transition)  # fmt: skip
            second = DriftMatcher.made[1].data
            assert (len(second.frozen) > 0, second.starts is not None) == (conditioning, transition)


def test_buffers_of_others_begin_the_first_stage(tmp_path: Path, folder: Path) -> None:
    buffers = str(folder / "stages/0/experts")
    made = pdd(tmp_path / "made", options={"buffers": buffers})
    assert same_images(made, ddfast.load(folder))
    with pytest.raises(ValueError, match=r"buffers: got 2 experts, but every stage needs experts=3; give experts=2"):
        pdd(tmp_path / "three", options={"buffers": buffers, "experts": 3})


BASES: dict[str, dict[str, Any]] = {
    "dc": {"batch_real": 6, "outer": 2, "inner": 2, "lr_img": 1.0},
    "dsa": {"batch_real": 6, "outer": 2, "inner": 2, "lr_img": 1.0},
    "dm": {"batch_real": 6},
    "idc": {"batch_real": 6, "inner_loop": 2, "n_data": 12, "batch_net": 8, "lr_img": 5.0},
}


@pytest.mark.parametrize("base", BASES)
def test_over_each_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    settings = {**SETTINGS, "width": 8, "iterations": 3, "test": "none", **BASES[base]}
    given: dict[str, Any] = {"base": base, "pool": 2, "transition_epochs": 1}
    made = pdd(tmp_path / "out", **given, options=settings)
    alone = ddfast.distill(base, source(), out=tmp_path / "alone", **settings, ipc=2, quiet=True)
    assert torch.equal(made.images[:6], alone.images)
    assert made.manifest["losses"][0] == alone.manifest["losses"]
    assert made.labels.tolist() == [0, 0, 1, 1, 2, 2] * 2
    free = pdd(tmp_path / "free", **given, conditioning=False, options=settings)
    assert free.manifest["losses"][0] == made.manifest["losses"][0]
    assert free.manifest["losses"][1] != made.manifest["losses"][1]
    fresh = pdd(tmp_path / "fresh", **given, transition=False, options=settings)
    assert fresh.manifest["losses"][1] != made.manifest["losses"][1]
    with monkeypatch.context() as patch:
        stopped_at(patch, get_matcher(base), "advance", 5)
        with pytest.raises(KeyboardInterrupt):
            pdd(tmp_path / "stopped", **given, options=settings)
    resumed = pdd(tmp_path / "stopped", **given, options=settings, resume=True)
    assert torch.equal(resumed.images, made.images)
    assert resumed.manifest == made.manifest


def get_matcher(base: str) -> Any:
    owners = {"idc": IDCMatcher, "dm": DistributionMatcher}
    return owners.get(base, GradientMatcher)
