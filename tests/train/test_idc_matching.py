"""IDC's loop against a plain transcription in float64, resumed runs, frozen images, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ddfast._types import Normalization
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.nets.flat_net import FlatNet
from ddfast.nets.resnet_ap import FlatResNetAP
from ddfast.runs import seeds
from ddfast.store.formation import Formation
from ddfast.train import NonFiniteLossError
from ddfast.train.cutmix import apply_cutmix, draw_cutmix
from ddfast.train.flat_student import fresh_theta
from ddfast.train.idc_augment import apply_idc, draw_idc
from ddfast.train.matching import MatchingData
from ddfast.train.matching.formation import mixed_pictures
from ddfast.train.matching.idc import IDCMatcher, IDCSettings
from ddfast.train.mixed import MixedRecipe, train_mixed

NET = FlatConvNet(num_classes=3, input_size=16, depth=2, width=8)
SPACE = Normalization((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
MEAN, STD = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (SPACE.mean, SPACE.std))
SETTINGS = IDCSettings(
    iterations=3, inner_loop=2, lr_img=0.05, batch_real=5, batch_syn=7, n_data=10,
    net=MixedRecipe(batch_size=6, lr=0.02), augment="color_crop_cutout_flip",
)  # fmt: skip


def problem(net: FlatNet = NET, frozen: int = 0) -> tuple[MatchingData, Tensor, Tensor]:
    """Real pictures (the classes of different sizes), images and their classes, two of each."""
    generator = torch.Generator().manual_seed(4)

    def pixels(count: int) -> Tensor:
        return torch.rand(count, 3, net.input_size, net.input_size, generator=generator, dtype=torch.float64)

    labels = torch.tensor([0] * 11 + [1] * 12 + [2] * 7)[torch.randperm(30, generator=generator)]
    old = torch.arange(3).repeat(frozen)
    data = MatchingData(net, (pixels(30) - MEAN) / STD, labels, pixels(3 * frozen), old)
    return data, pixels(6), torch.arange(3).repeat_interleave(2)


def transcription(
    data: MatchingData, images: Tensor, labels: Tensor, formation: Formation, settings: IDCSettings
) -> tuple[list[float], Tensor, list[Tensor]]:
    """Losses, images and the network's tensors at the end: loop in loop, torch's optimisers, graph of graph."""
    net, streams, losses = data.net, settings.stream, []
    images = images.clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=settings.lr_img, momentum=settings.momentum)
    weights: list[Tensor] = []
    consumed, size = 0, (net.input_size, net.input_size)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net.logits(torch.cat([w.reshape(-1) for w in weights]), x), y)

    def train(batches: int) -> None:
        nonlocal consumed
        count = -(-len(data.images) // settings.net.batch_size)
        for _ in range(batches):
            epoch, place = divmod(consumed, count)
            order = torch.from_numpy(seeds.permutation(settings.seed, f"{streams}/net", epoch, len(data.images)))
            index = order.split(settings.net.batch_size)[place]
            draw = draw_idc(settings.net.augment, len(index), size, seed=settings.seed, epoch=consumed,
                            stream=f"{streams}/net/augment")  # fmt: skip
            x, y = apply_idc(data.images[index], draw), data.labels[index]
            mix = draw_cutmix(len(index), size, seed=settings.seed, epoch=consumed, stream=f"{streams}/net/cutmix",
                              probability=settings.net.cutmix)  # fmt: skip
            if mix is None:
                loss = loss_of(x, y)
            else:
                x = apply_cutmix(x, mix)
                loss = mix.share * loss_of(x, y) + (1 - mix.share) * loss_of(x, y[mix.partner])
            trainer.zero_grad()
            loss.backward()
            trainer.step()
            consumed += 1

    for iteration in range(settings.iterations):
        if iteration % settings.inner_loop == 0:
            number = iteration // settings.inner_loop
            start = fresh_theta(net, settings.seed, f"{streams}/init {number}").double()
            weights = [w.clone().requires_grad_() for w in net.split(start)]
            trainer = torch.optim.SGD(
                weights, lr=settings.net.lr, momentum=settings.net.momentum, weight_decay=settings.net.weight_decay
            )
            train(settings.early * -(-len(data.images) // settings.net.batch_size))
            images.data.clamp_(0, 1)
        total = 0.0
        for c in range(net.num_classes):
            rows = torch.nonzero(data.labels == c)[:, 0]
            batch = min(settings.batch_real, len(rows))
            epoch, place = divmod(iteration, len(rows) // batch)
            order = torch.from_numpy(seeds.permutation(settings.seed, f"{streams}/real {c}", epoch, len(rows)))
            real = data.images[rows[order[place * batch : (place + 1) * batch]]]
            stored = torch.cat([data.frozen[data.frozen_labels == c], images[labels == c]])
            decoded = formation.decode(stored)
            if len(decoded) > settings.batch_syn:
                kept = seeds.permutation(settings.seed, f"{streams}/decoded {c}", iteration, len(decoded))
                decoded = decoded[torch.from_numpy(np.sort(kept[: settings.batch_syn]))]
            both = torch.cat([real, (decoded - MEAN) / STD])
            draw = draw_idc(settings.augment, 1, size, seed=settings.seed, epoch=iteration, step=c, siamese=True,
                            stream=f"{streams}/match")  # fmt: skip
            both = apply_idc(both, draw)
            target = torch.full((len(both),), c)
            want = torch.autograd.grad(loss_of(both[:batch], target[:batch]), weights)
            found = torch.autograd.grad(loss_of(both[batch:], target[batch:]), weights, create_graph=True)
            loss = torch.zeros((), dtype=torch.float64)
            for g, h in zip(want, found, strict=True):
                if g.ndim == 4:
                    away = g.detach() - h
                    loss = loss + (away.square().sum() if settings.metric == "mse" else away.abs().sum())
            total += loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(total / net.num_classes)
        train(min(-(-settings.n_data // settings.net.batch_size), -(-len(data.images) // settings.net.batch_size)))
    return losses, images.detach(), [w.detach() for w in weights]


CASES: dict[str, dict[str, Any]] = {
    "single": {},
    "l1": {"settings": replace(SETTINGS, metric="l1", lr_img=1e-3)},
    "early": {"settings": replace(SETTINGS, early=1, n_data=0, iterations=2)},
    "no augmentation": {"settings": replace(SETTINGS, augment="", momentum=0.0)},
    "multi": {"formation": Formation(2, "multi", 7)},
    "bound": {"formation": Formation(3, "bound", 7)},
    "frozen": {"frozen": 2, "settings": replace(SETTINGS, batch_syn=9)},
    "resnet": {"net": FlatResNetAP(num_classes=3, input_size=16, width=2), "settings": replace(SETTINGS, iterations=2)},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_loop_of_the_paper(name: str) -> None:
    case = CASES[name]
    data, images, labels = problem(case.get("net", NET), case.get("frozen", 0))
    formation, settings = case.get("formation", Formation(2)), case.get("settings", SETTINGS)
    matcher = IDCMatcher(data, images, labels, formation, SPACE, settings)
    losses = [matcher.advance() for _ in range(settings.iterations)]
    want, moved, weights = transcription(data, images, labels, formation, settings)
    assert losses == pytest.approx(want, rel=1e-9)
    assert (moved - images).abs().max() > 1e-4
    torch.testing.assert_close(matcher.state.images, moved, rtol=1e-8, atol=1e-10)
    theta = torch.cat([w.reshape(-1) for w in weights])
    torch.testing.assert_close(matcher.state.theta, theta, rtol=1e-8, atol=1e-10)
    assert matcher.iteration == matcher.iterations


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_groups_of_classes_do_not_change_it(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, net = [], replace(NET, norm=norm)
    for part in (1, 16, 1000):
        monkeypatch.setattr("ddfast.train.matching.idc._PART", {"cpu": part})
        matcher = IDCMatcher(*problem(net), Formation(2), SPACE, SETTINGS)
        assert len(matcher._groups()) == {1: 3, 16: 2, 1000: 1}[part]
        matcher.advance()
        found.append(matcher.state.images)
    torch.testing.assert_close(found[1], found[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found[2], found[0], rtol=1e-10, atol=1e-12)


def test_a_resumed_run_is_identical() -> None:
    whole = IDCMatcher(*problem(), Formation(2), SPACE, replace(SETTINGS, early=1))
    losses = [whole.advance() for _ in range(3)]
    first = IDCMatcher(*problem(), Formation(2), SPACE, replace(SETTINGS, early=1))
    assert first.advance() == losses[0]
    kept = copy.deepcopy(first.state_dict())
    first.advance()
    second = IDCMatcher(*problem(), Formation(2), SPACE, replace(SETTINGS, early=1))
    second.load_state_dict(kept)
    assert [second.advance(), second.advance()] == losses[1:]
    assert torch.equal(second.state.images, whole.state.images)
    assert torch.equal(second.state.theta, whole.state.theta)


def test_frozen_images_take_part_and_students_get_all_decoded() -> None:
    data, images, labels = problem(frozen=1)
    before = data.frozen.clone()
    matcher = IDCMatcher(data, images, labels, Formation(2, "bound", 6), SPACE, SETTINGS)
    matcher.advance()
    assert torch.equal(matcher.frozen, before)
    x, y = matcher.student_set()
    assert torch.bincount(y).tolist() == [12, 12, 12]  # three images of each class, four decoded of each
    stored, classes = matcher.stored()
    assert stored.min() >= 0
    assert stored.max() <= 1
    single = Formation(2)
    torch.testing.assert_close(x[:12], (single.decode(before) - MEAN) / STD)
    torch.testing.assert_close(x[12:], (single.decode(stored) - MEAN) / STD)
    assert y.tolist() == data.frozen_labels.tolist() * 4 + classes.tolist() * 4
    assert matcher.notes()["formation"] == single.as_json()


def test_networks_start_from_those_given() -> None:
    data, images, labels = problem()
    thetas = torch.stack([fresh_theta(NET, 5, f"{k}") for k in range(2)]).double()
    data.starts = thetas
    matcher = IDCMatcher(data, images, labels, Formation(2), SPACE, replace(SETTINGS, n_data=0, iterations=6))
    for iteration in range(6):
        matcher.advance()
        assert torch.equal(matcher.state.theta, thetas[iteration // 2 % 2])


def test_students_train_with_steps_of_the_rate() -> None:
    """Against torch's SGD and MultiStepLR, without random parts."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(9, 3, 16, 16, generator=generator, dtype=torch.float64)
    y = torch.arange(9) % 3
    recipe = MixedRecipe(lr=0.1, batch_size=4, augment="", cutmix=0.0)
    theta = fresh_theta(NET, 0, "student").double()
    momentum = torch.zeros_like(theta)
    found = train_mixed(NET, theta, x, y, recipe, 6, seed=1, stream="s", momentum=momentum)
    want = theta.clone().requires_grad_()
    optimizer = torch.optim.SGD([want], lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [4, 5], gamma=0.2)
    for epoch in range(6):
        order = torch.from_numpy(seeds.permutation(1, "s/order", epoch, 9))
        for index in order.split(4):
            optimizer.zero_grad()
            F.cross_entropy(NET.logits(want, x[index]), y[index]).backward()
            optimizer.step()
        schedule.step()
    torch.testing.assert_close(found, want.detach(), rtol=1e-9, atol=1e-11)
    assert momentum.abs().max() > 0
    with pytest.raises(NonFiniteLossError, match="s: the loss became nan in epoch 1"):
        train_mixed(NET, theta * float("nan"), x, y, recipe, 1, stream="s")


@pytest.mark.parametrize(("factor", "side"), [(1, 6), (2, 6), (3, 8)])
def test_images_begin_as_mosaics_of_different_pictures(factor: int, side: int) -> None:
    """Every pixel of tile k comes from the k-th group of pictures, at the place that nearest sampling says."""
    pictures = torch.rand(2 * factor**2, 3, side, side)
    found = mixed_pictures(pictures, factor)
    assert found.shape == (2, 3, side, side)
    edges = np.cumsum([0, *(side // factor + (k < side % factor) for k in range(factor))])
    for y in range(side):
        for x in range(side):
            i, j = int(np.searchsorted(edges, y, "right")) - 1, int(np.searchsorted(edges, x, "right")) - 1
            down, across = edges[i + 1] - edges[i], edges[j + 1] - edges[j]
            row, column = (y - edges[i]) * side // down, (x - edges[j]) * side // across
            k = 2 * (i * factor + j)
            assert torch.equal(found[:, :, y, x], pictures[k : k + 2, :, row, column])


def test_divergence_leaves_the_state_before() -> None:
    data, images, labels = problem()
    matcher = IDCMatcher(data, images, labels, Formation(2), SPACE, replace(SETTINGS, lr_img=float("inf")))
    with pytest.raises(NonFiniteLossError, match=r"iteration 1: .* lower lr_img"):
        matcher.advance()
    assert torch.equal(matcher.state.images, images)
    assert matcher.iteration == 0


def test_what_does_not_fit_is_refused() -> None:
    data, images, labels = problem()
    with pytest.raises(ValueError, match="class 2 has 0 images"):
        IDCMatcher(data, images[:4], labels[:4], Formation(2), SPACE, SETTINGS)
    with pytest.raises(ValueError, match=r"images: got \[3, 8, 8\]"):
        IDCMatcher(data, images[:, :, :8, :8], labels, Formation(2), SPACE, SETTINGS)
    for given, message in (
        ({"metric": "cos"}, "metric: got 'cos'"),
        ({"inner_loop": 0}, "inner_loop: got 0"),
        ({"early": -1}, "early: got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            IDCSettings(**given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pictures: got 7"):
        mixed_pictures(torch.rand(7, 3, 8, 8), 2)
