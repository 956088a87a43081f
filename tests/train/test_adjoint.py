"""Trajectory gradients: every way agrees with autograd in float64, for every architecture offered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ddfast import ops
from ddfast.nets import ConvNet
from ddfast.nets.convnet import NORMS
from ddfast.nets.flat_convnet import POOLS, FlatConvNet
from ddfast.train.adjoint import InnerStep, Match, PlaneStep, make_step, match_trajectory
from ddfast.train.dsa import STRATEGY, draw_dsa

SMALL = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)


def problem(net: FlatConvNet, dtype: torch.dtype = torch.float64, count: int = 6, soft: bool = False) -> dict[str, Any]:
    """A start, an expert some steps away, pictures and labels."""
    generator = torch.Generator().manual_seed(1)
    start = net.init(generator, torch.float64)
    start = start + 0.05 * torch.randn(net.size, generator=generator, dtype=torch.float64)  # so that no bias is zero
    target = start + 0.05 * torch.randn(net.size, generator=generator, dtype=torch.float64)
    size = (count, net.channels, net.input_size, net.input_size)
    images = torch.randn(size, generator=generator, dtype=torch.float64)
    labels: Tensor = torch.arange(count) % net.num_classes
    if soft:
        labels = torch.randn(count, net.num_classes, generator=generator, dtype=torch.float64).mul(2).softmax(1)
    given = {"net": net, "start": start, "target": target, "images": images, "labels": labels, "lr": 0.1}
    return {k: v.to(dtype) if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in given.items()}


def batches(count: int = 6, steps: int = 3, size: int = 4, strategy: str = "", side: int = 8) -> list[InnerStep]:
    generator = torch.Generator().manual_seed(2)
    found = []
    for step in range(steps):
        index = torch.randperm(count, generator=generator)[:size]
        draw = draw_dsa(strategy, size, (side, side), seed=0, step=step) if strategy else None
        found.append(InnerStep(index, draw))
    return found


def close(mine: Match, want: Match, tolerance: float) -> None:
    """Relative to the largest number of each gradient."""
    for name in ("loss", "images", "lr", "labels", "end"):
        x, y = getattr(mine, name), getattr(want, name)
        if x is None or y is None:
            assert x is y, name
            continue
        error = (x.double() - y.double()).abs().max().item()
        assert error <= tolerance * max(y.abs().max().item(), 1e-30), (name, error / y.abs().max().item())


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("depth", [1, 3])
def test_every_architecture_agrees_with_autograd(depth: int, norm: str, pool: str) -> None:
    net = FlatConvNet(num_classes=3, input_size=9 if pool == "avg" else 8, depth=depth, width=8, norm=norm, pool=pool)
    given, steps = problem(net), batches(side=net.input_size, strategy="crop")
    want = match_trajectory(**given, steps=steps, unroll="autograd")
    for memory in ("store", "recompute"):
        close(match_trajectory(**given, steps=steps, memory=memory), want, 1e-11)


@pytest.mark.parametrize("operation", STRATEGY.split("_"))
def test_every_augmentation(operation: str) -> None:
    given, steps = problem(SMALL), batches(strategy=operation)
    close(match_trajectory(**given, steps=steps), match_trajectory(**given, steps=steps, unroll="autograd"), 1e-11)


def test_soft_labels_get_a_gradient() -> None:
    given, steps = problem(SMALL, soft=True), batches()
    given["labels"] *= torch.tensor([[1.0], [0.5], [2.0], [1.0], [1.0], [0.7]]).double()  # rows need not sum to one
    mine = match_trajectory(**given, steps=steps, label_gradient=True)
    want = match_trajectory(**given, steps=steps, label_gradient=True, unroll="autograd")
    assert mine.labels is not None
    close(mine, want, 1e-11)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_float32_is_near_float64(norm: str) -> None:
    net = replace(SMALL, norm=norm)
    steps = batches(strategy=STRATEGY)
    want = match_trajectory(**problem(net), steps=steps, unroll="autograd")
    for memory in ("store", "recompute"):
        close(match_trajectory(**problem(net, torch.float32), steps=steps, memory=memory), want, 1e-5)


def test_store_and_recompute_are_the_same_bits() -> None:
    given, steps = problem(SMALL, torch.float32), batches(strategy=STRATEGY)
    store, again = (match_trajectory(**given, steps=steps, memory=memory) for memory in ("store", "recompute"))
    assert torch.equal(store.images, again.images)
    assert torch.equal(store.lr, again.lr)


def test_rate_by_finite_differences() -> None:
    given, steps = problem(SMALL), batches(steps=4)
    mine = match_trajectory(**given, steps=steps)
    losses = [match_trajectory(**{**given, "lr": 0.1 + h}, steps=steps).loss for h in (1e-6, -1e-6)]
    assert mine.lr.item() == pytest.approx((losses[0] - losses[1]).item() / 2e-6, rel=1e-6)


@pytest.mark.parametrize("unroll", ["adjoint", "autograd"])
def test_frozen_rows_stay_and_the_rest_is_unchanged(unroll: str) -> None:
    given, steps = problem(SMALL), batches(strategy="color_scale")
    whole = match_trajectory(**given, steps=steps, unroll=unroll)
    trainable = torch.tensor([False, False, False, True, True, True])
    part = match_trajectory(**given, steps=steps, unroll=unroll, trainable=trainable)
    assert (part.images[:3] == 0).all()
    torch.testing.assert_close(part.images[3:], whole.images[3:], rtol=1e-12, atol=0)
    torch.testing.assert_close(part.lr, whole.lr)
    none = match_trajectory(**given, steps=steps, unroll=unroll, trainable=torch.zeros(6, dtype=torch.bool))
    assert (none.images == 0).all()
    torch.testing.assert_close(none.lr, whole.lr)


def test_first_order_is_exact_for_one_step_and_drops_hessians_for_more() -> None:
    given = problem(SMALL)
    one = batches(steps=1)
    close(match_trajectory(**given, steps=one, adjoint="first_order"), match_trajectory(**given, steps=one), 1e-12)
    steps = batches(steps=3)
    exact = match_trajectory(**given, steps=steps)
    approximate = match_trajectory(**given, steps=steps, adjoint="first_order")
    assert torch.equal(exact.loss, approximate.loss)
    last = steps[-1].index
    others = [i for i in range(6) if i not in last]
    assert not torch.allclose(exact.images, approximate.images, rtol=1e-3)
    # images of earlier steps only: by hand, with v = lambda_N at every step
    step = make_step(SMALL)
    with torch.no_grad():
        thetas = [given["start"]]
        for inner in steps:
            gradient = step.first(thetas[-1], given["images"][inner.index], given["labels"][inner.index])[1]
            assert gradient is not None
            thetas.append(thetas[-1] - 0.1 * gradient)
        v = 2 * (thetas[-1] - given["target"]) / (given["start"] - given["target"]).square().sum()
        wanted = torch.zeros_like(given["images"])
        for theta, inner in zip(thetas, steps, strict=False):
            tape = step.first(theta, given["images"][inner.index], given["labels"][inner.index])[2]
            gradient = step.second(theta, v, tape).images
            assert gradient is not None
            wanted[inner.index] -= 0.1 * gradient
    torch.testing.assert_close(approximate.images, wanted)
    assert others


def cosine(x: Tensor, y: Tensor) -> float:
    return torch.nn.functional.cosine_similarity(x.double().flatten(), y.double().flatten(), 0).item()


def test_bfloat16_points_the_same_way() -> None:
    net = FlatConvNet(num_classes=10, input_size=16, depth=2, width=32)
    steps = batches(count=20, steps=3, size=20)
    want = match_trajectory(**problem(net, count=20), steps=steps)
    mine = match_trajectory(**problem(net, torch.float32, count=20), steps=steps, precision="bf16")
    assert mine.images.dtype == torch.float32
    assert cosine(mine.images, want.images) > 0.995
    assert mine.lr.item() == pytest.approx(want.lr.item(), rel=0.05)


@pytest.mark.slow
def test_compiled_unroll_agrees() -> None:
    net = FlatConvNet(num_classes=3, input_size=4, depth=1, width=8)
    given, steps = problem(net, torch.float32), batches(steps=2, side=4)
    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip("this torch cannot differentiate inside a compiled function")
    close(match_trajectory(**given, steps=steps, unroll="compile"),
          match_trajectory(**given, steps=steps, unroll="autograd"), 1e-5)  # fmt: skip


class TestFlatConvNet:
    def test_forward_and_order_are_those_of_the_module(self) -> None:
        net = FlatConvNet(num_classes=5, input_size=16, depth=3, width=8)
        theta = net.init(torch.Generator().manual_seed(0))
        module = net.module(theta)
        x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
        assert torch.equal(module(x), net.logits(theta, x))
        assert torch.equal(net.flatten(module), theta)
        shapes = [
            (8, 3, 3, 3),
            (8,),
            (8,),
            (8,),
            (8, 8, 3, 3),
            (8,),
            (8,),
            (8,),
            (8, 8, 3, 3),
            (8,),
            (8,),
            (8,),
            (5, 32),
            (5,),
        ]
        assert net.shapes == shapes

    @pytest.mark.parametrize(("classes", "side", "depth", "count"),
                             [(10, 32, 3, 320_010), (100, 32, 3, 504_420), (200, 64, 4, 857_160)])  # fmt: skip
    def test_sizes_of_the_papers(self, classes: int, side: int, depth: int, count: int) -> None:
        assert FlatConvNet(num_classes=classes, input_size=side, depth=depth).size == count

    def test_initialisation_has_the_ranges_of_torch(self) -> None:
        net = FlatConvNet(num_classes=10, width=32)
        torch.manual_seed(0)
        theirs = net.flatten(ConvNet(3, 10, 32, width=32, norm="instance"))
        ours = net.init(torch.Generator().manual_seed(0))
        for x, y in zip(net.split(ours), net.split(theirs), strict=True):
            assert x.abs().max().item() == pytest.approx(y.abs().max().item(), rel=0.15)
            assert x.std(correction=0).item() == pytest.approx(y.std(correction=0).item(), rel=0.4, abs=1e-6)

    def test_wrong_lengths_are_named(self) -> None:
        with pytest.raises(ValueError, match="theta: got 3 numbers"):
            SMALL.split(torch.zeros(3))
        with pytest.raises(ValueError, match="tensors: got shapes"):
            SMALL.join([torch.zeros(3)])
        with pytest.raises(ValueError, match="pool: got 'mean'"):
            replace(SMALL, pool="mean")
        with pytest.raises(ValueError, match="input_size: got 4 for depth 3"):
            FlatConvNet(input_size=4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": torch.zeros(5)}, r"start: got shape \[5\]"),
        ({"images": torch.zeros(6, 3, 4, 4)}, "images: got shape"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "labels: got shape"),
        ({"steps": []}, "steps: got none"),
        ({"steps": [InnerStep(torch.arange(7))]}, "lower the batch size"),
        ({"memory": "disk"}, "memory: got 'disk'"),
        ({"unroll": "autograd", "precision": "bf16"}, "belong to unroll='adjoint'"),
        ({"label_gradient": True}, "label_gradient: got True with classes"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {**problem(SMALL), "steps": batches(), **change}
    with pytest.raises(ValueError, match=message):
        match_trajectory(**given)


def test_plane_step_names_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="net: got norm 'batch'"):
        PlaneStep(replace(SMALL, norm="batch"))
    with pytest.raises(ValueError, match="precision: got 'bf16' for norm 'batch'"):
        make_step(replace(SMALL, norm="batch"), "bf16")


def test_hessian_product_and_gradients_of_one_step() -> None:
    """Step by step: PlaneStep against AutogradStep."""
    from ddfast.train.adjoint import AutogradStep

    given = problem(SMALL)
    v = torch.randn(SMALL.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found: Sequence[Any] = [
        (first, step.second(given["start"], v, first[2]))
        for step in (PlaneStep(SMALL), AutogradStep(SMALL))
        for first in [step.first(given["start"], given["images"], given["labels"])]
    ]
    (ours, mine), (theirs, want) = found
    torch.testing.assert_close(ours[0], theirs[0])
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-12)
    for x, y in zip(mine, want, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-9, atol=1e-12)


def test_wide_steps_by_winograd_err_no_more_than_by_direct_convolutions() -> None:
    """Width 128, where the convolutions of a CPU take fewer products: length of the error over the gradient's."""
    net = FlatConvNet(4, 16, depth=2)
    truth, given = problem(net, count=16), problem(net, torch.float32, count=16)
    v = torch.randn(net.size, dtype=torch.float64, generator=torch.Generator().manual_seed(3))

    def derivatives(data: dict[str, Any]) -> list[Tensor]:
        step = PlaneStep(net)
        _, gradient, tape = step.first(data["start"], data["images"], data["labels"])
        second = step.second(data["start"], v.to(data["start"]), tape)
        assert gradient is not None
        assert second.hv is not None
        assert second.images is not None
        return [gradient, second.hv, second.images]

    exact, ours = derivatives(truth), derivatives(given)
    with ops.use_backend("reference", ["conv3x3", "conv3x3_input_gradient", "conv3x3_weight_gradient"]):
        direct = derivatives(given)
    for want, mine, theirs in zip(exact, ours, direct, strict=True):
        errors = [((each.double() - want).norm() / want.norm()).item() for each in (mine, theirs)]
        assert errors[0] <= 2 * errors[1] + 1e-5, errors
