"""Cases of mmd's kernels, run by test_triton.py as triton_cases.py is."""

from __future__ import annotations

import pytest
import torch

from ddfast import ops
from tests.ops.mmd_helpers import SHAPES, SIGMAS, by_pairs, points
from tests.ops.test_mmd import SWITCHES, with_gradients
from tests.ops.triton_cases import DEVICE, rounding

OPS = ["mmd", "mmd_backward"]
EPS = torch.finfo(torch.float32).eps


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(("unbiased", "real_term"), SWITCHES)
def test_against_pairs_in_float64(unbiased: bool, real_term: bool, both: bool) -> None:
    switches = {"unbiased": unbiased, "real_term": real_term}
    for shape in SHAPES[1::2] if both else (SHAPES[0], SHAPES[3]):
        x, y = points(*shape, torch.float32)
        sigmas = torch.tensor(SIGMAS)[None] * torch.linspace(1, 2, shape[0])[:, None]
        truth = with_gradients(
            lambda a, b, s=sigmas: by_pairs(a, b, s.double(), **switches), x.double(), y.double(), both
        )
        with ops.use_backend("reference"):
            plain = with_gradients(lambda a, b, s=sigmas: ops.mmd(a, b, s, **switches), x, y, both)
        with ops.use_backend("triton", OPS):
            found = with_gradients(
                lambda a, b, s=sigmas: ops.mmd(a, b, s.to(DEVICE), **switches), x.to(DEVICE), y.to(DEVICE), both
            )
        for want, theirs, mine in zip(truth, plain, found, strict=True):
            allowed = 2 * (theirs.double() - want).abs().max() + 32 * EPS * want.abs().max() + EPS
            assert float((mine.cpu().double() - want).abs().max()) <= float(allowed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    x, y = points(2, 5, 6, 70, dtype)
    truth = with_gradients(lambda a, b: by_pairs(a, b, torch.tensor([SIGMAS]).double()), x.double(), y.double())
    with ops.use_backend("triton", OPS):
        found = with_gradients(lambda a, b: ops.mmd(a, b, SIGMAS), x.to(DEVICE), y.to(DEVICE))
    assert [each.dtype for each in found] == [torch.float32, dtype, dtype]
    for want, mine, share in zip(truth, found, (0.0, rounding(dtype), rounding(dtype)), strict=True):
        assert bool(((mine.cpu().double() - want).abs() <= 1.01 * share * want.abs() + 2e-6).all())


def test_near_points_layouts_and_missing_values() -> None:
    x, y = (0.01 * each for each in points(2, 6, 8, 50))
    move = 1000 + torch.zeros(50).double()
    x, y = (x + move).float(), (y + move).float()
    y[0, :3] = x[0, 2]
    x[1, 1] = x[1, 0]
    sigmas = (0.01, 0.05)
    truth = with_gradients(lambda a, b: by_pairs(a, b, torch.tensor([sigmas]).double()), x.double(), y.double())
    store = torch.full((8, 2, 60), float("nan"), device=DEVICE)
    view = store[:, :, 3:53].transpose(0, 1).copy_(y.to(DEVICE))
    with ops.use_backend("triton", OPS):
        for a, b in ((x.to(DEVICE), view), (x.to(DEVICE).mT.contiguous().mT, y.to(DEVICE))):
            for want, mine in zip(truth, with_gradients(lambda p, q: ops.mmd(p, q, sigmas), a, b), strict=True):
                assert float((mine.cpu() - want).abs().max()) <= 2e-4 * float(want.abs().max())
        assert [each.shape for each in with_gradients(ops.mmd, x[:0].to(DEVICE), y[:0].to(DEVICE))][1] == (0, 6, 50)
        x[1, 2, 3] = float("nan")
        assert ops.mmd(x.to(DEVICE), y.to(DEVICE)).isnan().tolist() == [False, True]


def test_writes_its_results_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stores = []

    def with_canaries(size: object, *more: int, **options: object) -> torch.Tensor:
        shape = tuple(size.shape) if isinstance(size, torch.Tensor) else (size, *more)
        count = int(torch.tensor(shape).prod())
        stores.append(torch.full((count + 64,), 77.0, device=DEVICE))
        return stores[-1][32 : 32 + count].view(shape).fill_(float("nan"))

    for shape in ((3, 4, 5, 7), (1, 34, 18, 130)):
        x, y = (each.to(DEVICE).requires_grad_() for each in points(*shape, torch.float32))
        with monkeypatch.context() as patch, ops.use_backend("triton", OPS):
            patch.setattr(torch, "empty", with_canaries)
            patch.setattr(torch, "empty_like", with_canaries)
            torch.autograd.grad(ops.mmd(x, y).sum(), (x, y))
    assert len(stores) == 6
    for store in stores:
        assert bool((store[:32] == 77).all())
        assert bool((store[-32:] == 77).all())
        assert bool(store[32:-32].isfinite().all())
