"""A captured matching iteration: the same numbers through static buffers, and nothing on the host depends on data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.adjoint import InnerStep, Match, MatchGraphs, match_trajectory
from ddfast.train.adjoint.capture import GRAPHS, Outputs, _inputs, _Iteration
from ddfast.train.dsa import STRATEGY, draw_dsa
from tests.train.graph_stand_in import StandIn

NET = FlatConvNet(num_classes=3, input_size=8, depth=2, width=16)


def given(number: int, dtype: torch.dtype = torch.float32, soft: bool = False, net: FlatConvNet = NET) -> list[Any]:
    """Arguments of iteration ``number``, all of them new."""
    generator = torch.Generator().manual_seed(number)
    start = net.init(generator, torch.float64) + 0.05 * torch.randn(net.size, generator=generator, dtype=torch.float64)
    target = start + 0.05 * torch.randn(net.size, generator=generator, dtype=torch.float64)
    images = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
    labels: Tensor = torch.randint(0, 3, (6,), generator=generator)
    if soft:
        labels = torch.randn(6, 3, generator=generator, dtype=torch.float64).softmax(1).to(dtype)
    return [start.to(dtype), target.to(dtype), images.to(dtype), labels, torch.tensor(0.1 / (number + 1), dtype=dtype)]


def drawn(number: int, sizes: tuple[int, ...] = (2, 4, 4), strategy: str = STRATEGY) -> list[InnerStep]:
    generator = torch.Generator().manual_seed(number)
    found = []
    for step, size in enumerate(sizes):
        draw = (
            draw_dsa(strategy, size, (8, 8), seed=0, epoch=number, step=step, siamese=step == 1) if strategy else None
        )
        found.append(InnerStep(torch.randperm(6, generator=generator)[:size], draw))
    return found


def fields(match: Match) -> list[Tensor]:
    found = [match.loss, match.images, match.lr, match.end]
    return found if match.labels is None else [*found, match.labels]


@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("soft", [False, True])
def test_one_graph_serves_every_draw_bit_for_bit(soft: bool, memory: str) -> None:
    record = StandIn()
    options = {"memory": memory, "label_gradient": soft}
    graphs = MatchGraphs(NET, record=record, **options)
    kinds, kept, wanted = set(), [], []
    for number in range(8):
        arguments, steps = given(number, soft=soft), drawn(number)
        kinds |= {step.draw.op for step in steps if step.draw is not None}
        kept.append(graphs(*arguments, steps))
        wanted.append(match_trajectory(NET, *arguments, steps, **options))
        assert graphs.reason == ""
    assert record.recorded == 1
    assert kinds == set(STRATEGY.split("_"))
    for mine, want in zip(kept, wanted, strict=True):  # at the end: results are not overwritten by later iterations
        assert all(torch.equal(a, b) for a, b in zip(fields(mine), fields(want), strict=True))


def test_frozen_rows_are_masked() -> None:
    graphs = MatchGraphs(NET, record=StandIn())
    for number in range(3):
        arguments, steps = given(number, torch.float64), drawn(number)
        trainable = torch.arange(6) >= number + 1
        mine = graphs(*arguments, steps, trainable=trainable)
        want = match_trajectory(NET, *arguments, steps, trainable=trainable)
        assert bool((mine.images[~trainable] == 0).all())
        for a, b in zip(fields(mine), fields(want), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_shapes_have_their_own_graphs_up_to_a_number() -> None:
    record = StandIn()
    graphs = MatchGraphs(NET, record=record)
    plans = [((2, 4), STRATEGY), ((4, 2), STRATEGY), ((2, 4), ""), ((3,), STRATEGY), ((5,), STRATEGY), ((2, 4), "")]
    assert len({plan[0] for plan in plans}) == GRAPHS
    for place, (sizes, strategy) in enumerate(plans):
        arguments, steps = given(place), drawn(place, sizes, strategy)
        mine, want = graphs(*arguments, steps), match_trajectory(NET, *arguments, steps)
        assert all(torch.equal(a, b) for a, b in zip(fields(mine), fields(want), strict=True))
        assert ("other shapes" in graphs.reason) == (place == 4)
    assert record.recorded == GRAPHS


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("memory", ["store", "recompute"])
@pytest.mark.parametrize("soft", [False, True])
def test_nothing_on_the_host_depends_on_data(soft: bool, memory: str, norm: str) -> None:
    """Traced with tensors that have no data, on a device that need not be there (autograd asks for it)."""
    device = "cuda" if norm == "instance" else "cpu"
    net = replace(NET, norm=norm)
    *tensors, rate = given(0, soft=soft, net=net)
    steps = drawn(0)
    inputs = _inputs(*tensors, rate, steps, torch.arange(6) >= 2)
    with FakeTensorMode():
        fake = {name: torch.empty(value.shape, dtype=value.dtype, device=device) for name, value in inputs.items()}
        outputs = _Iteration(net, fake, steps, {"memory": memory, "label_gradient": soft}).run()
        assert [value.shape for value in outputs[:4]] == [(), (6, 3, 8, 8), (), (net.size,)]
        assert all(value.device.type == device for value in outputs)
        frozen = fake["trainable"] > 0
        arguments = [fake[name] for name in ("start", "target", "images", "labels", "lr")]
        batch = [InnerStep(torch.empty(4, dtype=torch.int64, device=device))]
        with pytest.raises(DynamicOutputShapeException):  # the eager way asks which rows are trainable
            match_trajectory(net, *arguments, batch, trainable=frozen)


def test_reasons_to_run_eagerly() -> None:
    arguments, steps = given(0), drawn(0)
    want = fields(match_trajectory(NET, *arguments, steps))
    plain = MatchGraphs(NET)
    assert all(torch.equal(a, b) for a, b in zip(fields(plain(*arguments, steps)), want, strict=True))
    assert "need a CUDA device, the images are on cpu" in plain.reason
    calls = []

    def fails(function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        calls.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    broken = MatchGraphs(NET, record=fails)
    with pytest.warns(RuntimeWarning, match="without a CUDA graph: operation not permitted"):
        first = broken(*arguments, steps)
    second = broken(*arguments, steps)
    assert len(calls) == 1
    assert "capture failed: operation not permitted" in broken.reason
    for mine in (first, second):
        assert all(torch.equal(a, b) for a, b in zip(fields(mine), want, strict=True))
    with pytest.raises(ValueError, match="steps: got none"):
        MatchGraphs(NET, record=StandIn())(*arguments, [])


@pytest.mark.gpu
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("memory", ["store", "recompute"])
def test_a_real_graph_is_the_eager_iteration(memory: str, norm: str) -> None:
    net = replace(NET, norm=norm)
    graphs = MatchGraphs(net, memory=memory)
    for number in range(4):
        arguments = [value.cuda() for value in given(number, net=net)]
        steps = [InnerStep(step.index.cuda(), step.draw) for step in drawn(number)]
        trainable = torch.arange(6, device="cuda") >= 1
        mine = graphs(*arguments, steps, trainable=trainable)
        assert graphs.reason == ""
        want = match_trajectory(net, *arguments, steps, memory=memory, trainable=trainable)
        for a, b in zip(fields(mine), fields(want), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))
    iteration = next(iter(graphs._graphs.values()))
    torch.cuda.set_sync_debug_mode("error")
    try:
        iteration.run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
