"""D3's loop against a plain transcription in float64; the image-gradient cut, chunks, restarts, bad numbers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.baselines.d3_reference import D3Reference
from ddfast._types import Normalization
from ddfast.nets.decoder import DecoderConfig, make_decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train import NonFiniteLossError
from ddfast.train.latent import decoding
from ddfast.train.latent.bank import initial_latents
from ddfast.train.latent.decoding import DecodedDraws
from ddfast.train.latent.draws import D3Draws
from ddfast.train.latent.matcher import D3Matcher
from ddfast.train.latent.mmd_term import FeatureTerm
from ddfast.train.latent.real_pictures import RealDraws, RealPictures
from ddfast.train.trajectories import TrajectoryStore
from tests.train.d3_case import NET, matching, store_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    path: Path = tmp_path_factory.mktemp("experts")
    return store_of(path)


def tensors(ours: D3Matcher | D3Reference) -> list[Tensor]:
    """Everything that is trained."""
    return [each.detach() for each in (ours.latents, ours.syn_lr, *ours.decoder.state_dict().values())]


@pytest.mark.parametrize("changes", [
    {}, {"mtt_weight": 0.0}, {"mmd_weight": 0.0}, {"sampling": False}, {"batch_syn": None},
    {"mmd_features": "target", "max_start_epoch": 1},  # at epoch 2 of 3
    {"batch_norm": "running", "scale": 2.0}, {"chunk": 7, "batch_norm": "running"},
    {"norm": "batch"},
])  # fmt: skip
def test_three_iterations_are_those_of_the_transcription(store: TrajectoryStore, changes: dict[str, Any]) -> None:
    ours = matching(store, **changes)
    begun = [each.clone() for each in tensors(ours)]
    plain = D3Reference(ours)
    losses = [plain.advance(iteration) for iteration in range(3)]
    assert [ours.advance() for _ in range(3)] == pytest.approx(losses, rel=1e-9)
    for found, wanted, before in zip(tensors(ours), tensors(plain), begun, strict=True):
        if not found.is_floating_point():  # how many batches running statistics saw
            continue
        torch.testing.assert_close(found, wanted, rtol=1e-7, atol=1e-9)
        assert ("mtt_weight" in changes and not found.ndim) or not torch.equal(found, before)
    assert torch.equal(ours.history.isnan().any(0), torch.tensor(["mtt_weight" in changes, "mmd_weight" in changes]))


def gradients(ours: D3Matcher, term: Callable[[], float]) -> list[Tensor]:
    """Of latents and decoder."""
    for each in (ours.latents, *ours.decoder.parameters()):
        each.grad = None
    term()
    return [each.grad.clone() for each in (ours.latents, *ours.decoder.parameters()) if each.grad is not None]


@pytest.mark.parametrize("term", ["trajectory", "feature"])
def test_the_cut_is_the_graph_of_everything(store: TrajectoryStore, term: str) -> None:
    """Relative to the largest entry of each tensor, to a few roundings of float64."""
    ours = matching(store)
    plain = D3Reference(ours)
    loss: Tensor = plain.trajectory_loss(0) if term == "trajectory" else plain.feature_loss(0)
    loss = loss * (1.3 if term == "trajectory" else 0.7)
    leaves = [plain.latents, *plain.decoder.parameters()]
    wanted = torch.autograd.grad(loss, [*leaves, plain.syn_lr] if term == "trajectory" else leaves)
    found = gradients(ours, ours.trajectory_gradient if term == "trajectory" else ours.feature_gradient)
    if term == "trajectory":
        assert ours.syn_lr.grad is not None
        found.append(ours.syn_lr.grad)
    largest = max(float(each.abs().max()) for each in wanted[:-1])
    for a, b in zip(found, wanted, strict=True):  # biases in front of a norm have no gradient but rounding
        assert float((a - b).abs().max()) <= 1e-12 * max(float(b.abs().max()), largest)


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_nothing_but_rounding(store: TrajectoryStore, chunk: int) -> None:
    whole, ours = matching(store, chunk=1000), matching(store, chunk=chunk)
    for each in ("trajectory_gradient", "feature_gradient"):
        wanted, found = gradients(whole, getattr(whole, each)), gradients(ours, getattr(ours, each))
        largest = max(float(b.abs().max()) for b in wanted)
        assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) <= 1e-13 * largest


def test_features_of_real_pictures_are_made_once_where_that_is_less_work(store: TrajectoryStore) -> None:
    few, many = matching(store, iterations=3, mtt_weight=0.0), matching(store, iterations=20, mtt_weight=0.0)
    assert not few.keeps_features
    assert many.keeps_features
    assert not matching(store, iterations=20, mmd_features="target").keeps_features
    for _ in range(3):
        many.advance()
        few.advance()
    torch.testing.assert_close(many.latents, few.latents, rtol=1e-12, atol=1e-12)
    many.real.pictures[:] = float("nan")  # each of the three experts was drawn: they are not looked at again
    many.advance()


def test_large_graphs_of_the_decoder_are_made_again(store: TrajectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = matching(store)
    draws = ours.draws.samples(0, 3)
    kept = DecodedDraws(ours.decoder, ours.latents, draws)
    assert kept.limit is None
    monkeypatch.setattr(decoding, "_KEPT", {"cpu": 1000})
    again = DecodedDraws(ours.decoder, ours.latents, draws)
    assert again.limit == 256
    assert torch.equal(again.pictures, kept.pictures)
    pull = torch.randn(kept.pictures.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = [gradients(ours, lambda each=each: each.backward(pull)) for each in (kept, again)]  # type: ignore[misc]
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_a_run_goes_on_with_the_same_bits(store: TrajectoryStore, tmp_path: Path) -> None:
    options: dict[str, Any] = {"dtype": torch.float32, "batch_norm": "running", "iterations": 4}
    whole, part = matching(store, **options), matching(store, **options)
    losses = [whole.advance() for _ in range(4)]
    assert [part.advance() for _ in range(2)] == losses[:2]
    torch.save(part.state_dict(), tmp_path / "state.pt")
    other = matching(store, **options)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    shown = other.student_set()[0]  # looking at pictures moves nothing
    assert [other.advance() for _ in range(2)] == losses[2:]
    assert all(torch.equal(a, b) for a, b in zip(tensors(other), tensors(whole), strict=True))
    assert torch.equal(other.history, whole.history)
    assert other.iteration == other.iterations == 4
    assert torch.equal(shown, part.student_set()[0])
    with pytest.raises(ValueError, match=r"state: got latents of shape \[6, 5, 2\], expected \[3, 5, 2\]"):
        other.__class__(
            NET, store, other.settings, other.latents[:3], torch.arange(3), other.decoder, other.real
        ).load_state_dict(whole.state_dict())


def test_what_students_see_are_means_and_samples(store: TrajectoryStore) -> None:
    ours = matching(store)
    means, labels = ours.stored()
    with torch.no_grad():
        assert torch.equal(means, ours.decoder(ours.latents[:, :, 0]))
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    images, classes = ours.student_set()
    assert torch.equal(images[:6], means)
    assert classes.tolist() == [0, 0, 1, 1, 2, 2] * 2
    assert not torch.allclose(images[6:], means, atol=1e-3)
    assert len(matching(store, sampling=False).student_set()[0]) == 6
    assert ours.learned_lr() == pytest.approx(0.0501)
    assert matching(store, mtt_weight=0.0).learned_lr() is None


def test_an_iteration_draws_two_experts_and_covers_the_priors() -> None:
    draws = D3Draws(3, "d3", 6, 4)
    pairs = [(draws.expert(i, 0, 4), draws.expert(i, 1, 4)) for i in range(30)]
    assert all({*pairs[2 * k], *pairs[2 * k + 1]} == {0, 1, 2, 3} for k in range(15))
    assert {draws.epoch(i, 3) for i in range(30)} == {0, 1, 2}
    first, second, third, _ = (draw.rows.tolist() for draw in draws.batches(0, 4, 4))
    assert (len(first), len(second), len(third)) == (2, 4, 2)
    assert sorted(first + second) == list(range(6))
    eps = [draw.eps for i in range(2) for draw in (*draws.batches(i, 2, 6), *draws.samples(i, 2))]
    assert len({float(each[0, 0]) for each in eps if each is not None}) == 8  # all of them fresh
    assert draws.samples(0, 3)[1].rows.tolist() == list(range(6))


def test_real_pictures_are_drawn_from_their_class_without_repetition() -> None:
    labels = torch.tensor([2, 0, 1, 1, 0, 2, 2, 1, 0, 0, 1])
    draws = RealDraws(labels, 3, 30, seed=0, stream="real")
    assert draws.count == 3  # as many as the smallest class has
    rows = torch.stack([draws.rows(i) for i in range(200)])
    for label in range(3):
        assert set(labels[rows[:, label].flatten()].tolist()) == {label}
    assert all(len(set(each.tolist())) == 3 for each in rows.flatten(0, 1))
    shares = torch.bincount(rows[:, 0].flatten(), minlength=11)[labels == 0] / 200
    assert (shares - 0.75).abs().max() < 0.15  # 3 of 4, more than four standard deviations
    with pytest.raises(ValueError, match="class 1 has 1 real pictures, expected 2 or more"):
        RealDraws(torch.tensor([0, 0, 1]), 2, 3, seed=0, stream="real")


def test_real_pictures_as_bytes_are_normalised_when_they_are_drawn() -> None:
    pictures = torch.randint(0, 256, (5, 4, 4, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    picked = RealPictures(pictures, torch.arange(5), Normalization(mean, std)).pick(torch.tensor([3, 1]), torch.float64)
    wanted = (pictures[[3, 1]].double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    torch.testing.assert_close(picked, wanted.permute(0, 3, 1, 2), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="normalization: got None for uint8 pictures"):
        RealPictures(pictures, torch.arange(5))


def test_bandwidths_by_the_median_do_not_depend_on_the_scale_of_the_features(store: TrajectoryStore) -> None:
    ours = matching(store, bandwidths="median")
    found = ours.feature_gradient()
    head = NET.size - 3 * NET.width * NET.side**2 - 3
    theta = store.snapshot(0, 3).double()
    pictures = DecodedDraws(ours.decoder, ours.latents, ours.draws.samples(0, 3)).pictures
    rows, scaled = ours.reals.rows(0), theta.clone()
    scaled[head - NET.width * 2 : head] *= 10  # the last norm: all features are ten times as large
    one, other = (ours.term(each, pictures, ours.real, rows).loss for each in (theta, scaled))
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert 0 < found < 3 * 2 * 5  # three classes, five kernels between 0 and 1


@pytest.mark.parametrize(("where", "message"), [
    ("latents", r"iteration 2 \(experts \d and \d, start epoch \d\): the trajectory loss became nan; the state before"),
    ("real", "iteration 2 .*the feature \\(MMD\\) loss became nan.*lower lr_latent, lr_decoder or lr_teacher"),
])  # fmt: skip
def test_not_a_number_stops_with_the_state_before(store: TrajectoryStore, where: str, message: str) -> None:
    ours = matching(store)
    ours.advance()
    if where == "latents":
        with torch.no_grad():
            ours.latents[1, 2, 0] = float("nan")
    else:
        ours.real.pictures[:] = float("nan")
    before = [each.clone() for each in tensors(ours)]
    velocity = ours.optimizers["latents"].state_dict()["state"][0]["momentum_buffer"].clone()
    with pytest.raises(NonFiniteLossError, match=message):
        ours.advance()
    for found, wanted in zip(tensors(ours), before, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours.optimizers["latents"].state_dict()["state"][0]["momentum_buffer"], velocity)
    assert ours.iteration == 1


def test_a_rate_that_turns_negative_stops_with_the_state_before(store: TrajectoryStore) -> None:
    ours = matching(store, lr_lr=1e3)
    rates = []

    def go_on() -> None:
        for _ in range(3):
            rates.append(float(ours.rate()))
            ours.advance()

    with pytest.raises(NonFiniteLossError, match=r"student's learning rate became -.*lower lr_lr"):
        go_on()
    assert float(ours.rate()) == rates[-1] > 0


def test_what_does_not_fit_is_named(store: TrajectoryStore) -> None:
    good, labels = matching(store), torch.arange(6) % 3
    decoder = make_decoder(DecoderConfig(size=16, z=5, kernels=8), 1, "test").double()
    with pytest.raises(ValueError, match=r"labels: got .*equally many of each of the 3 classes, class by class"):
        D3Matcher(NET, store, good.settings, good.latents, labels, decoder, good.real)
    with pytest.raises(ValueError, match="need experts of 5 epochs; these have 3"):
        matching(store, expert_epochs=4)
    with pytest.raises(ValueError, match="need experts of 4 epochs; these have 3"):  # features: 2 + 2, trajectories: 3
        matching(store, expert_epochs=2, mmd_features="target")
    with pytest.raises(ValueError, match="expected a ConvNet"):
        FeatureTerm(object(), 3, 2)  # type: ignore[arg-type]


def live_bytes(draws: int, chunk: int) -> int:
    """Most bytes of tensors alive at a time in an MMD step, less its pictures and their gradient."""
    net = FlatConvNet(num_classes=2, input_size=32, depth=2, width=32)
    decoder = make_decoder(DecoderConfig(size=32, z=8, kernels=32), 0, "memory")
    latents = initial_latents(2, 1, 8, seed=0, stream="memory").requires_grad_()
    pictures = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    real = RealPictures(pictures, torch.arange(8) // 4)
    term = FeatureTerm(net, 2, 1, chunk=chunk)
    theta = net.init(torch.Generator().manual_seed(1))
    drawn = D3Draws(0, "memory", 2, 8).samples(0, draws)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        decoded = DecodedDraws(decoder, latents, drawn, chunk)
        found = term(theta, decoded.pictures, real, torch.arange(8).view(2, 4))
        decoded.backward(found.pictures)
    made = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = accumulate(event.nbytes() for event in sorted(made, key=lambda event: event.start_ns()))
    samples = 2 * draws * 4
    # kept for every sample: its picture and the picture's gradient (twice while they are put together), and features
    return max(alive) - samples * (3 * 3 * 32 * 32 + 2 * 32 * 8 * 8)


def test_memory_of_the_mmd_step_is_bounded_by_the_chunk() -> None:
    few, many = live_bytes(8, 8), live_bytes(64, 8)
    assert few > 1_000_000
    assert many <= 1.1 * few
    assert live_bytes(64, 1000) > 3 * few
