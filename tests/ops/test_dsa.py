"""dsa and its transpose: every backend and layout against torch's own layers in float64, exactness, derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ddfast.ops import dsa, dsa_adjoint, use_backend
from tests.ops.dsa_helpers import IDENTITY, KINDS, LAYOUTS, by_layers, params, pictures, surrounded, transposed
from tests.ops.ragged_helpers import BACKENDS, forced

SHAPES = [(3, 8, 8), (1, 7, 5), (4, 1, 9), (3, 9, 1), (6, 17, 33), (3, 1, 1)]
EPS = {torch.float32: 2.0**-23, torch.float64: 2.0**-52}


def both(x: Tensor, g: Tensor, p: Tensor) -> list[Tensor]:
    return [dsa(x, p), dsa(x, p, addend=False), dsa_adjoint(g, p)]


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_against_layers_in_float64(shape: tuple[int, int, int], layout: str, backend: str) -> None:
    p = params(*shape[1:])
    x, g = (pictures(len(p), *shape, seed=seed) for seed in (0, 1))
    truth = [by_layers(x, p), by_layers(x, p, addend=False), transposed(g, p)]
    with use_backend("reference"):
        plain = both(x.float(), g.float(), p)
    with forced(backend):
        double = both(surrounded(x, layout), surrounded(g, layout), p)
        single = both(surrounded(x.float(), layout), surrounded(g.float(), layout), p)
    for want, theirs, exact, rounded in zip(truth, plain, double, single, strict=True):
        scale = want.abs().max().item() + 1
        torch.testing.assert_close(exact, want, rtol=0, atol=1e-12 * scale)
        allowed = 2 * (theirs.double() - want).abs().max().item() + 4 * EPS[torch.float32] * scale
        assert (rounded.double() - want).abs().max().item() <= allowed
        assert rounded.dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_pixels_are_copies(dtype: torch.dtype, backend: str) -> None:
    h, w = 6, 9
    x = pictures(1, 3, h, w, dtype)
    for down, right, flip in [(0, 0, False), (2, -3, False), (-6, 1, False), (0, 9, False), (1, 2, True), (0, 0, True)]:
        row = list(IDENTITY)
        row[5], row[8] = down, (w - 1 - right if flip else right)
        row[7] = -1.0 if flip else 1.0
        source = x.flip(3) if flip else x
        wide = torch.zeros(1, 3, 3 * h, 3 * w, dtype=dtype)
        wide[:, :, h : 2 * h, w : 2 * w] = source
        wanted = wide[:, :, h + down : 2 * h + down, w + right : 2 * w + right]
        with forced(backend):
            assert torch.equal(dsa(x, torch.tensor([row])), wanted)


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_writes_its_result_alone(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    p = params(7, 5)
    stores = []

    def with_canaries(like: Tensor) -> Tensor:
        n, c, h, w = like.shape
        stores.append(torch.full((n + 2, c, h, w), 77.0, dtype=like.dtype))
        return stores[-1][1:-1].fill_(float("nan"))

    x = pictures(len(p), 3, 7, 5, torch.float32)
    monkeypatch.setattr(torch, "empty_like", with_canaries)
    with forced(backend):
        found = both(x, x, p)
    assert len(stores) == len(found)
    for store in stores:
        assert bool((store[[0, -1]] == 77.0).all())
        assert bool(store[1:-1].isfinite().all())


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_row_for_all_threads_and_empty_batches(backend: str) -> None:
    p = params(16, 16)
    x = pictures(200, 3, 16, 16, torch.float32)
    threads = torch.get_num_threads()
    with forced(backend):
        together = [both(x, x, p[k : k + 1]) for k in range(len(p))]
        torch.set_num_threads(3)
        try:
            alone = [both(x, x, p[k : k + 1].expand(200, -1).float().double()) for k in (0, 1, 2)]
            again = [both(x, x, p[k : k + 1]) for k in range(len(p))]
        finally:
            torch.set_num_threads(threads)
        for size in ((0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)):
            assert all(found.shape == size for found in both(torch.ones(size), torch.ones(size), p[:1]))
        assert dsa(x[:0], p[:0]).shape == (0, 3, 16, 16)
    for mine, other in [*zip(together[:3], alone, strict=True), *zip(together, again, strict=True)]:
        assert all(torch.equal(a, b) for a, b in zip(mine, other, strict=True))


def test_low_precision_is_rounded_once() -> None:
    p = params(9, 7)
    x = pictures(len(p), 3, 9, 7)
    for dtype, eps in ((torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)):
        low = x.to(dtype)
        for found, want in zip(both(low, low, p), both(low.double(), low.double(), p), strict=True):
            assert found.dtype == dtype
            assert bool(((found.double() - want).abs() <= eps * want.abs() + 1e-5).all())


@pytest.mark.parametrize("kind", ["colour", "flipped crop", "all", "shrink"])
def test_gradcheck_and_gradgradcheck(kind: str) -> None:
    p = params(5, 4, (kind, "rotate"))
    x = pictures(2, 3, 5, 4).requires_grad_()
    calls: list[Callable[[Tensor], Tensor]] = [
        lambda v: dsa(v, p),
        lambda v: dsa_adjoint(v, p),
        lambda v: dsa(v, p).square(),
        lambda v: dsa_adjoint(v, p).exp(),
    ]
    for call in calls:
        assert torch.autograd.gradcheck(call, (x,))
        assert torch.autograd.gradgradcheck(call, (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_transpose_is_the_transpose(backend: str) -> None:
    for h, w in ((8, 8), (5, 11)):
        p = params(h, w)
        x, g = (pictures(len(p), 3, h, w, seed=seed) for seed in (2, 3))
        with forced(backend):
            left = (dsa(x, p, addend=False) * g).sum((1, 2, 3))
            right = (x * dsa_adjoint(g, p)).sum((1, 2, 3))
        torch.testing.assert_close(left, right, rtol=1e-12, atol=1e-12)


def test_opcheck() -> None:
    p = params(4, 5, KINDS[:3])
    for dtype in (torch.float32, torch.bfloat16):
        x = pictures(3, 3, 4, 5, dtype)
        for given in (x, x.contiguous(memory_format=torch.channels_last).requires_grad_()):
            torch.library.opcheck(torch.ops.ddfast.dsa, (given, p, True))
            torch.library.opcheck(torch.ops.ddfast.dsa_adjoint, (given, p))


def test_params_do_not_decide_what_is_traced() -> None:
    """One compiled graph serves draws of every kind."""
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, p: dsa(x, p) * 2, fullgraph=True, backend="aot_eager")
    x = pictures(1, 3, 8, 8)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for row in params(8, 8).split(1):
            assert torch.equal(compiled(x, row), dsa(x, row) * 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.zeros(3, 4, 4)}, "images: got shape"),
        ({"images": torch.zeros(2, 3, 4, 4, dtype=torch.int32)}, "images: got torch.int32"),
        ({"params": torch.zeros(2, 12)}, "params: got shape"),
        ({"params": torch.zeros(3, 13)}, "params: got 3 rows, expected 2"),
        ({"params": torch.zeros(2, 13, dtype=torch.int64)}, "params: got torch.int64"),
        ({"params": torch.zeros(2, 13, requires_grad=True)}, "params: got a tensor that requires a gradient"),
    ],
)
def test_wrong_arguments(change: dict[str, Tensor], message: str) -> None:
    given = {"images": torch.zeros(2, 3, 4, 4), "params": torch.zeros(2, 13), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        dsa(**given)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_against_layers(shape: tuple[int, int, int]) -> None:
    p = params(*shape[1:])
    x, g = (pictures(len(p), *shape, seed=seed) for seed in (0, 1))
    truth = [by_layers(x, p), by_layers(x, p, addend=False), transposed(g, p)]
    found = both(x.float().cuda(), g.float().cuda(), p.cuda())
    again = both(x.float().cuda(), g.float().cuda(), p.cuda())
    for want, mine, same in zip(truth, found, again, strict=True):
        scale = want.abs().max().item() + 1
        torch.testing.assert_close(mine.cpu().double(), want, rtol=0, atol=3e-5 * scale)
        assert torch.equal(mine, same)
