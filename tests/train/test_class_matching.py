"""DC, DSA and DM: the loops against plain transcriptions in float64, restarts, frozen images, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train import NonFiniteLossError
from ddfast.train.dsa import STRATEGY, apply_dsa
from ddfast.train.matching import MatchingData
from ddfast.train.matching.distribution import DistributionMatcher
from ddfast.train.matching.gradient import GradientMatcher, GradientSettings, distance_and_gradient, loops, row_distance
from ddfast.train.matching.images import ImageMatcher, ImageSettings

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)
COUNTS = (7, 12, 9)  # real pictures a class; a batch is 8


def data(net: FlatConvNet = NET, frozen: int = 0, dtype: torch.dtype = torch.float64) -> MatchingData:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))[torch.randperm(sum(COUNTS), generator=generator)]
    images = torch.randn(len(labels), 3, 8, 8, generator=generator, dtype=dtype) + labels[:, None, None, None]
    older = torch.randn(3 * frozen, 3, 8, 8, generator=generator, dtype=dtype)
    return MatchingData(net, images, labels, older, torch.arange(3).repeat(frozen))


def start(ipc: int = 2, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    images = torch.randn(3 * ipc, 3, 8, 8, generator=torch.Generator().manual_seed(2), dtype=dtype)
    return images, torch.arange(3).repeat_interleave(ipc)


def gradient_matcher(given: MatchingData, ipc: int = 2, **changes: Any) -> GradientMatcher:
    chosen: dict[str, Any] = {
        "stream": "dc", "iterations": 3, "lr_img": 0.5, "batch_real": 8, "outer": 2, "inner": 2, "lr_net": 0.05,
        "batch_train": 4, **changes,
    }  # fmt: skip
    images, labels = start(ipc, given.images.dtype)
    return GradientMatcher(given, images, labels, GradientSettings(**chosen))


def distribution_matcher(given: MatchingData, ipc: int = 2, **changes: Any) -> DistributionMatcher:
    chosen: dict[str, Any] = {"stream": "dm", "iterations": 3, "lr_img": 0.5, "batch_real": 8, **changes}
    return DistributionMatcher(given, *start(ipc, given.images.dtype), ImageSettings(**chosen))


def batches(ours: ImageMatcher, images: Tensor, label: int, iteration: int, step: int) -> tuple[Tensor, Tensor]:
    """Real and synthetic pictures of a class on our draws."""
    given = ours.data
    real = given.images[ours.real_rows(label, iteration, step)]
    synthetic = torch.cat([given.frozen[given.frozen_labels == label], images[ours.labels == label]])
    draw = ours.draw(label, iteration, step)
    return (real, synthetic) if draw is None else (apply_dsa(real, draw), apply_dsa(synthetic, draw))


def distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Between gradients of the same layers: cosines of output rows, weights only."""
    total = torch.zeros((), dtype=torch.float64)
    for a, b in zip(one, other, strict=True):
        if a.ndim > 1:
            a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def plain_dc(ours: GradientMatcher, iterations: int) -> tuple[list[float], Tensor]:
    """DC as its paper's algorithm reads: torch modules and optimisers, class by class."""
    settings, net = ours.settings, ours.net
    images = ours.images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=settings.lr_img, momentum=settings.momentum)
    found = []
    for iteration in range(iterations):
        module: nn.Module = net.module(ours.start(iteration)).double()
        trainer, average = torch.optim.SGD(module.parameters(), lr=settings.lr_net), 0.0
        for outer in range(settings.outer):
            loss = torch.zeros((), dtype=torch.float64)
            for label in range(3):
                real, synthetic = batches(ours, images, label, iteration, outer)
                sides = [
                    list(torch.autograd.grad(
                        F.cross_entropy(module(x), torch.full((len(x),), label)), list(module.parameters()),
                        create_graph=graph,
                    ))
                    for x, graph in ((real.detach(), False), (synthetic, True))
                ]  # fmt: skip
                loss = loss + distance(*sides)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            average += loss.item()
            if outer == settings.outer - 1:
                break
            union = torch.cat([ours.data.frozen, images.detach()])
            targets = torch.cat([ours.data.frozen_labels, ours.labels])
            for index, draw in ours.training_batches(iteration, outer):
                x = union[index] if draw is None else apply_dsa(union[index], draw)
                trainer.zero_grad()
                F.cross_entropy(module(x), targets[index]).backward()
                trainer.step()
        found.append(average / (3 * settings.outer))
    return found, images.detach()


def plain_dm(ours: DistributionMatcher, iterations: int) -> tuple[list[float], Tensor]:
    settings, net = ours.settings, ours.net
    images = ours.images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=settings.lr_img, momentum=settings.momentum)
    found = []
    for iteration in range(iterations):
        theta, loss = ours.start(iteration), torch.zeros((), dtype=torch.float64)
        pairs = [batches(ours, images, label, iteration, 0) for label in range(3)]
        if net.norm == "batch":  # one batch of all classes
            sides = [net.features(theta, torch.cat(x)).split([len(y) for y in x]) for x in zip(*pairs, strict=True)]
        else:
            sides = [[net.features(theta, x) for x in side] for side in zip(*pairs, strict=True)]
        for real, synthetic in zip(*sides, strict=True):
            loss = loss + (real.mean(0) - synthetic.mean(0)).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item() / 3)
    return found, images.detach()


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize(("norm", "dsa", "frozen"), [
    ("instance", "", 0), ("instance", STRATEGY, 2), ("instance", "color_rotate", 0), ("group", STRATEGY, 1),
])  # fmt: skip
def test_gradient_matching_is_the_transcription(norm: str, dsa: str, frozen: int, batched: bool) -> None:
    ours = gradient_matcher(data(replace(NET, norm=norm), frozen), dsa=dsa, batched=batched)
    losses, images = plain_dc(ours, 3)
    before = ours.images.clone()
    assert [ours.advance() for _ in range(3)] == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(ours.images, images, rtol=1e-9, atol=1e-9)
    assert (images - before).abs().max() > 1e-2


@pytest.mark.parametrize(("norm", "frozen"), [("instance", 0), ("instance", 2), ("batch", 1)])
def test_distribution_matching_is_the_transcription(norm: str, frozen: int) -> None:
    ours = distribution_matcher(data(replace(NET, norm=norm), frozen), dsa=STRATEGY)
    losses, images = plain_dm(ours, 3)
    before = ours.images.clone()
    assert [ours.advance() for _ in range(3)] == pytest.approx(losses, rel=1e-10)
    torch.testing.assert_close(ours.images, images, rtol=1e-9, atol=1e-9)
    assert (images - before).abs().max() > 1e-2


@pytest.mark.parametrize("part", [1, 4, 100])
def test_parts_do_not_change_the_result(part: int) -> None:
    for make in (gradient_matcher, distribution_matcher):
        whole, ours = make(data(frozen=1)), make(data(frozen=1))
        ours.part = part
        whole.advance()
        ours.advance()
        torch.testing.assert_close(ours.images, whole.images, rtol=1e-10, atol=1e-10)


def test_distance_has_its_closed_form() -> None:
    generator = torch.Generator().manual_seed(3)
    g, target = (torch.randn(2, NET.size, generator=generator, dtype=torch.float64) for _ in range(2))
    NET.split(g)[0][0, 3] = 0  # rows without any gradient, as dead filters have
    NET.split(target)[4][1, 2] = 0
    g.requires_grad_()
    want = row_distance(NET, g, target)
    (slope,) = torch.autograd.grad(want.sum(), g)
    found, gradient = distance_and_gradient(NET, g.detach(), target)
    torch.testing.assert_close(found, want.detach(), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=1e-14)
    same = row_distance(NET, target, target)[0]
    assert abs(float(same)) < 1e-3 < float(found.min())


def test_float32_is_near_float64() -> None:
    for make in (gradient_matcher, distribution_matcher):
        want, ours = make(data(), dsa=STRATEGY), make(data(dtype=torch.float32), dsa=STRATEGY)
        ours.images = want.images.float()
        ours.data.images = want.data.images.float()
        assert ours.advance() == pytest.approx(want.advance(), rel=1e-3)
        assert ours.images.dtype == torch.float32
        moved, wanted = ((each.images - start()[0]).flatten() for each in (ours, want))
        assert F.cosine_similarity(moved.double(), wanted, 0) > 0.999


@pytest.mark.parametrize("make", [gradient_matcher, distribution_matcher])
def test_a_run_goes_on_with_the_same_bits(make: Any) -> None:
    whole, part = make(data(), dsa=STRATEGY), make(data(), dsa=STRATEGY)
    losses = [whole.advance() for _ in range(3)]
    part.advance()
    other = make(data(), dsa=STRATEGY)
    other.load_state_dict(part.state_dict())
    assert [other.advance() for _ in range(2)] == losses[1:]
    assert torch.equal(other.images, whole.images)
    assert other.iteration == other.iterations == 3
    with pytest.raises(ValueError, match=r"state: got images of shape \[3, 3, 8, 8\]"):
        other.load_state_dict(make(data(), ipc=1).state_dict())


@pytest.mark.parametrize("make", [gradient_matcher, distribution_matcher])
def test_frozen_images_take_part_and_stay(make: Any) -> None:
    alone, ours = make(data()), make(data(frozen=1))
    frozen = ours.data.frozen.clone()
    alone.advance()
    ours.advance()
    assert torch.equal(ours.data.frozen, frozen)
    assert not torch.allclose(alone.images, ours.images, rtol=1e-3)
    images, labels = ours.student_set()
    assert torch.equal(images, torch.cat([frozen, ours.images]))
    assert labels.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
    assert len(ours.stored()[0]) == 6
    assert ours.learned_lr() is None


def test_given_networks_are_started_from_in_turn() -> None:
    given = data()
    given.starts = torch.stack([NET.init(torch.Generator().manual_seed(seed)) for seed in (5, 6)])
    for make in (gradient_matcher, distribution_matcher):
        fresh, ours = make(data()), make(given)
        assert [torch.equal(ours.start(i), given.starts[i % 2].double()) for i in range(4)] == [True] * 4
        assert ours.advance() != fresh.advance()


def test_one_draw_for_real_and_synthetic_but_not_for_two_classes_or_steps() -> None:
    ours = gradient_matcher(data(), dsa="crop_rotate_scale")
    draws = [ours.draw(label, iteration, step) for label in range(3) for iteration in range(3) for step in range(3)]
    assert all(draw is not None and len(draw.values) == 1 for draw in draws)
    assert len({(draw.op, *draw.values[0].tolist()) for draw in draws if draw}) > 20
    rows = [tuple(ours.real_rows(1, iteration, step).tolist()) for iteration in range(3) for step in range(3)]
    assert len(set(rows)) == 9
    assert all(len(set(each)) == 8 for each in rows)
    assert set(ours.data.labels[list(rows[0])].tolist()) == {1}
    assert len(ours.real_rows(0, 0)) == 7  # all there are


def test_loops_are_the_papers_and_lie_between_them_elsewhere() -> None:
    table = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    assert {ipc: loops(ipc) for ipc in table} == table
    assert loops(100) == (50, 10)
    assert loops(2) == (2, 6)
    assert loops(5) == (5, 23)
    assert loops(15) == (15, 38)


@pytest.mark.parametrize("make", [gradient_matcher, distribution_matcher])
def test_numbers_that_are_not_finite_stop_the_run_before_they_spread(make: Any) -> None:
    given = data()
    given.images[given.labels == 1] = float("nan")
    ours = make(given)
    before = ours.images.clone()
    with pytest.raises(NonFiniteLossError, match="iteration 1: the matching loss became nan"):
        ours.advance()
    assert torch.equal(ours.images, before)
    assert ours.iteration == 0


@pytest.mark.parametrize("make", [gradient_matcher, distribution_matcher])
def test_bad_input_is_named(make: Any) -> None:
    given = data()
    given.labels = given.labels.clamp(max=1)
    with pytest.raises(ValueError, match="no real pictures of class 2"):
        make(given)
    with pytest.raises(ValueError, match=r"data.images: got shape \[28, 3, 4, 4\]"):
        make(replace(data(), images=data().images[..., :4, :4]))
    for change, message in (
        ({"lr_img": 0.0}, "lr_img: got 0.0"), ({"momentum": 1.0}, "momentum: got 1.0"),
        ({"batch_real": 0}, "batch_real: got 0"), ({"precision": "fp8"}, "precision: got 'fp8'"),
        ({"dsa": "warp"}, "dsa: got 'warp'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make(data(), **change)
    with pytest.raises(ValueError, match="inner: got 0"):
        gradient_matcher(data(), inner=0)
