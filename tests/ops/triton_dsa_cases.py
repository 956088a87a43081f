"""Cases of dsa's kernels, run by test_triton.py as triton_cases.py is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddfast import ops
from tests.ops.dsa_helpers import KINDS, LAYOUTS, by_layers, params, pictures, surrounded, transposed
from tests.ops.triton_cases import DEVICE, rounding

# two tiles (the last one not full), one tile, a line, one pixel, the largest number of channels
SHAPES = [(3, 11, 27), (1, 7, 5), (4, 1, 9), (3, 1, 1), (16, 5, 6)]
FEW = ("flipped crop", "all", "contrast on a crop")


def both(x: Tensor, g: Tensor, p: Tensor) -> list[Tensor]:
    with ops.use_backend("triton", ["dsa", "dsa_adjoint"]):
        return [ops.dsa(x, p), ops.dsa(x, p, addend=False), ops.dsa_adjoint(g, p)]


@pytest.mark.parametrize("shape", SHAPES)
def test_against_layers_in_float64(shape: tuple[int, int, int]) -> None:
    p = params(*shape[1:], KINDS if shape[1:] == (7, 5) else FEW)
    layout = LAYOUTS[SHAPES.index(shape) % len(LAYOUTS)]
    x, g = (pictures(len(p), *shape, torch.float32, seed=seed) for seed in (0, 1))
    truth = [by_layers(x.double(), p), by_layers(x.double(), p, addend=False), transposed(g.double(), p)]
    with ops.use_backend("reference"):
        plain = [ops.dsa(x, p), ops.dsa(x, p, addend=False), ops.dsa_adjoint(g, p)]
    found = both(surrounded(x, layout).to(DEVICE), surrounded(g, layout).to(DEVICE), p.to(DEVICE))
    for want, theirs, mine in zip(truth, plain, found, strict=True):
        allowed = 2 * (theirs - want).abs().max() + 8 * torch.finfo(torch.float32).eps * (want.abs().max() + 1)
        assert float((mine.cpu() - want).abs().max()) <= float(allowed)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision(dtype: torch.dtype) -> None:
    p = params(6, 7, FEW)
    x = pictures(len(p), 3, 6, 7, dtype)
    truth = [by_layers(x.double(), p), by_layers(x.double(), p, addend=False), transposed(x.double(), p)]
    for want, mine in zip(truth, both(x.to(DEVICE), x.to(DEVICE), p.to(DEVICE)), strict=True):
        assert mine.dtype == dtype
        assert bool(((mine.cpu().double() - want).abs() <= 1.01 * rounding(dtype) * want.abs() + 2e-5).all())


def test_one_row_for_all_and_empty_batches() -> None:
    p = params(6, 6, FEW)[1:, None]
    x = pictures(2, 3, 6, 6, torch.float32).to(DEVICE)
    for row in p.to(DEVICE):
        for one, each in zip(both(x, x, row), both(x, x, row.expand(2, -1).float()), strict=True):
            torch.testing.assert_close(one, each, rtol=0, atol=2e-6)
    assert all(found.shape == (0, 3, 6, 6) for found in both(x[:0], x[:0], p[0].to(DEVICE)))


def test_many_channels_are_left_to_the_reference() -> None:
    with pytest.raises(ops.BackendError, match="17 channels"):
        both(*[torch.zeros(1, 17, 4, 4, device=DEVICE)] * 2, params(4, 4, ("crop",)).to(DEVICE))
