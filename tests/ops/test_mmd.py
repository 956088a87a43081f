"""mmd: every backend against the formula in float64, hard distances, derivatives, layouts, and the median heuristic."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ddfast import ops
from tests.ops.mmd_helpers import SHAPES, SIGMAS, by_pairs, points
from tests.ops.ragged_helpers import BACKENDS, forced

EPS = torch.finfo(torch.float32).eps
SWITCHES = list(itertools.product((True, False), repeat=2))


def with_gradients(call: Any, x: Tensor, y: Tensor, both: bool = True) -> list[Tensor]:
    """The values, and the gradients of their sum weighted by 1, 2, ..."""
    x, y = x.detach().requires_grad_(), y.detach().requires_grad_(both)
    value = call(x, y)
    weights = torch.arange(1, len(x) + 1, dtype=value.dtype, device=value.device)
    return [value.detach(), *torch.autograd.grad(value, (x, y) if both else x, weights)]


def compare(x: Tensor, y: Tensor, sigmas: Tensor, backend: str, both: bool, **switches: bool) -> None:
    """A backend in float32 against the formula in float64; at most twice the reference's errors."""
    truth = with_gradients(lambda a, b: by_pairs(a, b, sigmas.double(), **switches), x.double(), y.double(), both)
    with ops.use_backend("reference"):
        plain = with_gradients(lambda a, b: ops.mmd(a, b, sigmas, **switches), x, y, both)
    with forced(backend):
        found = with_gradients(lambda a, b: ops.mmd(a, b, sigmas, **switches), x, y, both)
    for want, theirs, mine in zip(truth, plain, found, strict=True):
        allowed = 2 * (theirs.double() - want).abs().max() + 16 * EPS * want.abs().max() + EPS
        assert float((mine.double() - want).abs().max()) <= float(allowed)
        assert mine.dtype == torch.float32
        assert mine.shape == want.shape


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_pairs_in_float64(shape: tuple[int, int, int, int], backend: str) -> None:
    sigmas = torch.tensor(SIGMAS).double()[None] * torch.linspace(1, 2, shape[0]).double()[:, None]
    x, y = points(*shape)
    for unbiased, real_term in SWITCHES:
        switches = {"unbiased": unbiased, "real_term": real_term}
        for both in (False, True):
            compare(x.float(), y.float(), sigmas.float(), backend, both, **switches)


@pytest.mark.parametrize(("unbiased", "real_term"), SWITCHES)
def test_float64(unbiased: bool, real_term: bool) -> None:
    for shape in SHAPES:
        x, y = points(*shape)
        sigmas = torch.tensor([SIGMAS]).double()
        truth = with_gradients(lambda a, b, s=sigmas: by_pairs(a, b, s, unbiased, real_term), x, y)
        found = with_gradients(lambda a, b: ops.mmd(a, b, SIGMAS, unbiased=unbiased, real_term=real_term), x, y)
        for want, mine in zip(truth, found, strict=True):
            torch.testing.assert_close(mine, want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("backend", BACKENDS)
def test_near_points_far_from_the_origin(backend: str) -> None:
    """Distances of 1e-3 and 0 between points of norm 1e3, where |a|^2 + |b|^2 - 2ab alone is all rounding."""
    x, y = (0.01 * each for each in points(2, 6, 8, 50))
    move = 1000 + torch.zeros(50).double()
    x, y = (x + move).float(), (y + move).float()
    y[0, :3] = x[0, 2]
    x[1, 1] = x[1, 0]
    x[1, 3] = y[1, 2] + 1e-3
    sigmas = torch.tensor([[0.01, 0.05]]).expand(2, 2)
    truth = with_gradients(lambda a, b: by_pairs(a, b, sigmas.double()), x.double(), y.double())
    with forced(backend):
        found = with_gradients(lambda a, b: ops.mmd(a, b, sigmas), x, y)
    for want, mine in zip(truth, found, strict=True):
        assert float((mine - want).abs().max()) <= 1e-4 * float(want.abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_far_and_equal_points(backend: str) -> None:
    far = torch.arange(12.0).reshape(2, 3, 2) * 1e6
    with forced(backend):
        value, *gradients = with_gradients(lambda a, b: ops.mmd(a, b, SIGMAS), far, -far - 1e6)
        assert bool((value == 0).all())
        assert all(bool((each == 0).all()) for each in gradients)
        same = torch.ones(2, 4, 9)
        value, *gradients = with_gradients(lambda a, b: ops.mmd(a, b, SIGMAS), same, same[:, :3])
        torch.testing.assert_close(value, torch.zeros(2), rtol=0, atol=8 * EPS)
        assert all(float(each.abs().max()) <= 4 * EPS for each in gradients)
        same[1, 2, 3] = float("nan")
        value = ops.mmd(same, same[:, :3].nan_to_num(1.0), SIGMAS)
    assert value.isnan().tolist() == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_threads_and_no_classes(backend: str) -> None:
    x, y = points(5, 9, 7, 37, torch.float32)
    store = torch.full((5, 7, 80), float("nan"))
    store[:, :, 3:77:2] = y
    views = (
        (x.transpose(0, 1).contiguous().transpose(0, 1), store[:, :, 3:77:2]),
        (x.mT.contiguous().mT, y.expand_as(y)),
    )
    threads = torch.get_num_threads()
    with forced(backend):
        wanted = with_gradients(ops.mmd, x, y)
        for a, b in views:
            for mine, want in zip(with_gradients(ops.mmd, a, b), wanted, strict=True):
                torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-7)
        one_y = with_gradients(ops.mmd, x, y[:1].expand(5, -1, -1))
        torch.testing.assert_close(one_y[0][0], wanted[0][0])
        torch.set_num_threads(3)
        try:
            again = with_gradients(ops.mmd, x, y)
        finally:
            torch.set_num_threads(threads)
        assert [each.shape for each in with_gradients(ops.mmd, x[:0], y[:0])] == [(0,), (0, 9, 37), (0, 7, 37)]
    for mine, want in zip(again, wanted, strict=True):
        torch.testing.assert_close(mine, want, rtol=1e-5, atol=1e-7)


def test_low_precision_is_rounded_once() -> None:
    for dtype, eps in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        x, y = points(2, 5, 6, 20, dtype)
        truth = with_gradients(lambda a, b: by_pairs(a, b, torch.tensor([SIGMAS]).double()), x.double(), y.double())
        found = with_gradients(lambda a, b: ops.mmd(a, b, SIGMAS), x, y)
        assert [each.dtype for each in found] == [torch.float32, dtype, dtype]
        for want, mine, rounding in zip(truth, found, (0.0, eps, eps), strict=True):
            assert bool(((mine.double() - want).abs() <= rounding * want.abs() + 1e-6).all())


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize("both", [False, True])
def test_writes_its_results_alone(both: bool, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []

    def with_canaries(*size: Any, **options: Any) -> Tensor:
        shape = tuple(size[0].shape) if isinstance(size[0], Tensor) else size
        count = math.prod(shape)
        stores.append(torch.full((count + 64,), 77.0))
        return stores[-1][32 : 32 + count].view(shape).fill_(float("nan"))

    for shape in SHAPES:
        x, y = points(*shape, torch.float32)
        stores.clear()
        with monkeypatch.context() as patch, forced(backend):
            patch.setattr(torch, "empty", with_canaries)
            patch.setattr(torch, "empty_like", with_canaries)
            with_gradients(ops.mmd, x, y, both)
        assert len(stores) == 4
        for store in stores:
            assert bool((store[:32] == 77).all())
            assert bool((store[-32:] == 77).all())
            assert bool(store[32:-32].isfinite().all())


def test_a_few_classes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = points(5, 4, 3, 6)
    wanted = with_gradients(ops.mmd, x, y)
    monkeypatch.setattr(ops.mmd.__globals__["reference"], "_PART_BYTES", 2 * 7 * 6 * 8)
    for mine, want in zip(with_gradients(ops.mmd, x, y), wanted, strict=True):
        torch.testing.assert_close(mine, want)


@pytest.mark.parametrize(("unbiased", "real_term"), SWITCHES)
def test_gradcheck_and_gradgradcheck(unbiased: bool, real_term: bool) -> None:
    x, y = points(2, 3, 2, 3)

    def call(a: Tensor, b: Tensor) -> Tensor:
        return ops.mmd(a, b, SIGMAS, unbiased=unbiased, real_term=real_term).exp()

    x.requires_grad_()
    for given in (y, y.clone().requires_grad_()):
        assert torch.autograd.gradcheck(call, (x, given))
        assert torch.autograd.gradgradcheck(call, (x, given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    x, y = points(2, 3, 4, 5, dtype)
    sigmas, upstream = torch.tensor([SIGMAS] * 2), torch.ones(2)
    for wanted in (0, 1, 2):
        torch.library.opcheck(torch.ops.ddfast.mmd, (x, y, sigmas, True, True, wanted))
    x.requires_grad_()
    torch.library.opcheck(torch.ops.ddfast.mmd, (x, y, sigmas, True, False, 1))
    torch.library.opcheck(torch.ops.ddfast.mmd, (x, y.clone().requires_grad_(), sigmas, True, True, 2))
    for both in (False, True):
        weights = torch.ops.ddfast.mmd(x.detach(), y, sigmas, True, True, 1 + both)[1]
        given = (upstream, weights, x, y.clone().requires_grad_(both), sigmas, True, True, both)
        torch.library.opcheck(torch.ops.ddfast.mmd_backward, given)
        vectors = x.detach(), y if both else y.new_empty(0)
        detached = (upstream, x.detach(), y, sigmas, True, True, both)
        torch.library.opcheck(torch.ops.ddfast.mmd_double_backward, (*vectors, *detached))


def test_median() -> None:
    x, y = points(3, 4, 3, 6)
    z = torch.cat([x, y], 1)
    pairs = torch.stack([torch.nn.functional.pdist(each) for each in z])
    torch.testing.assert_close(
        ops.mmd_median(x, y, (0.5, 2.0)), pairs.median(1).values[:, None] * torch.tensor([0.5, 2])
    )
    torch.testing.assert_close(ops.mmd_median(x, y, (3.0,), per_class=False), 3 * pairs.median()[None])
    assert ops.mmd_median(x.bfloat16(), y.bfloat16()).dtype == torch.float32
    same = torch.zeros(2, 5, 3)
    same[0, 0, 0] = 2
    torch.testing.assert_close(ops.mmd_median(same[:, :3], same[:, 3:], (1.0,)), torch.tensor([[0.8], [1.0]]))
    assert bool(ops.mmd(x, y, ops.mmd_median(x, y)).isfinite().all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 4)}, "x: got shape"),
        ({"x": torch.zeros(2, 3, 4, dtype=torch.int64)}, "x: got torch.int64"),
        ({"y": torch.zeros(2, 3, 4).double()}, "y: got torch.float64"),
        ({"y": torch.zeros(2, 3, 5)}, "y: got shape"),
        ({"x": torch.zeros(2, 1, 4)}, "x: got 1 points of each class, expected 2 or more for an unbiased"),
        ({"y": torch.zeros(2, 0, 4)}, "y: got 0 points"),
        ({"y": torch.zeros(2, 0, 4), "real_term": False}, "y: got 0 points of each class, expected 1"),
        ({"x": torch.zeros(2, 3, 0), "y": torch.zeros(2, 3, 0)}, "expected one feature"),
        ({"sigmas": ()}, "sigmas: got none"),
        ({"sigmas": (1.0, -1.0)}, "sigmas: got .* expected positive"),
        ({"sigmas": torch.tensor([1.0, 0.0])}, "sigmas: got .* expected positive"),
        ({"sigmas": torch.ones(3, 2)}, "sigmas: got shape"),
        ({"sigmas": torch.ones(2, requires_grad=True)}, "sigmas: got a tensor that requires a gradient"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], message: str) -> None:
    given = {"x": torch.zeros(2, 3, 4), "y": torch.zeros(2, 3, 4), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        ops.mmd(**given)
