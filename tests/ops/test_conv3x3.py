"""conv3x3: value and gradients against torch's convolution in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import _native, ops
from ddfast.ops import available_backends, conv3x3
from ddfast.ops.conv3x3 import native

BACKENDS = [name for name in ("reference", "cpp") if name in available_backends("conv3x3")]
FAMILY = ["conv3x3", "conv3x3_input_gradient", "conv3x3_weight_gradient"]
# images, inputs, outputs, height, width: several parts, one of them short; a strip; more outputs than inputs
SHAPES = [(9, 128, 128, 16, 16), (64, 128, 128, 2, 4), (3, 144, 160, 12, 18)]


def planes(*shape: int, last: bool = True) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return x.contiguous(memory_format=torch.channels_last) if last else x


def all_three(conv: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor, g: Tensor) -> list[Tensor]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = conv(x, w)
    return [y.detach(), *torch.autograd.grad(y, (x, w), g)]


def by_torch(x: Tensor, w: Tensor) -> Tensor:
    return F.conv2d(x, w, padding=1)


@pytest.fixture(params=["v3", "v4"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    module = _native.cpu()
    if module is None or request.param not in (module.best_isa(), "v3"):
        pytest.skip("not on this processor")
    before = module.isa()
    module.set_isa(request.param)
    yield request.param
    module.set_isa(before)


@pytest.mark.usefixtures("isa", "poisoned_empty")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 3])
def test_winograd_errs_no_more_than_direct_convolution(shape: tuple[int, ...], threads: int) -> None:
    if "cpp" not in BACKENDS:
        pytest.skip("no native module")
    n, i, o, h, w = shape
    given = planes(n, i, h, w), planes(o, i, 3, 3), planes(n, o, h, w)
    truth = all_three(by_torch, *(x.double() for x in given))
    direct = all_three(by_torch, *given)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    vars(native._local).clear()  # work memory of earlier calls is not poisoned
    try:
        with ops.use_backend("cpp", FAMILY):
            mine = all_three(conv3x3, *given)
    finally:
        torch.set_num_threads(before)
    for got, plain, want in zip(mine, direct, truth, strict=True):
        assert got.is_contiguous(memory_format=torch.channels_last)
        allowed = 2 * (plain.double() - want).abs().max() + 4e-6 * want.abs().max()
        assert (got.double() - want).abs().max() <= allowed


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_layouts_and_odd_shapes(backend: str) -> None:
    """What Winograd does not take goes to the reference without a word; row-major planes give the same."""
    for n, c, h, w in ((4, 128, 8, 16), (2, 3, 8, 8), (2, 5, 7, 9), (0, 128, 8, 8), (1, 128, 4, 4)):
        x, f = planes(n, c, h, w, last=False), planes(128, c, 3, 3, last=False)
        want = by_torch(x.double(), f.double())
        if backend == "cpp":
            got = conv3x3(x, f)
        else:
            with ops.use_backend("reference", FAMILY):
                got = conv3x3(x, f)
        torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def test_defaults_of_torch_do_not_matter() -> None:
    given = planes(9, 128, 16, 16), planes(128, 128, 3, 3), planes(9, 128, 16, 16)
    want = all_three(conv3x3, *given)
    vars(native._local).clear()
    torch.set_default_dtype(torch.float64)
    try:
        again = all_three(conv3x3, *given)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(want, again, strict=True))


def test_it_is_differentiable_any_number_of_times() -> None:
    x, w = (t.double().requires_grad_() for t in (planes(2, 3, 4, 3), planes(2, 3, 3, 3)))
    assert torch.autograd.gradcheck(conv3x3, (x, w))
    assert torch.autograd.gradgradcheck(conv3x3, (x, w))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype: torch.dtype) -> None:
    x, w = planes(4, 128, 8, 16).to(dtype), planes(128, 128, 3, 3).to(dtype)
    library = torch.ops.ddfast
    for op, args in ((library.conv3x3, (x, w)), (library.conv3x3_input_gradient, (x, w)),
                     (library.conv3x3_weight_gradient, (x, x))):  # fmt: skip
        torch.library.opcheck(op, tuple(a.clone().requires_grad_() for a in args),
                              test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))  # fmt: skip


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="w"):
        conv3x3(planes(1, 4, 8, 8), planes(4, 5, 3, 3))
    with pytest.raises(TypeError, match="w"):
        conv3x3(planes(1, 4, 8, 8), planes(4, 4, 3, 3).double())
