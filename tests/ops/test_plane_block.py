"""plane_block: value, gradient and both second-order ops against torch's own layers in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import ops
from ddfast.ops import available_backends, plane_block

SHAPES = [(3, 32, 8, 8), (2, 16, 7, 5), (1, 48, 2, 3), (4, 128, 16, 16)]
FAMILY = ["plane_block", "plane_block_backward", "plane_block_tangent", "plane_block_tangent_backward"]
BACKENDS = [name for name in ("reference", "cpp") if name in available_backends("plane_block")]


def by_layers(a: Tensor, gamma: Tensor, beta: Tensor, pool: bool) -> Tensor:
    """As the field writes it: GroupNorm with a group a channel, ReLU, AvgPool2d; models one by one."""
    if gamma.ndim == 2:
        parts = zip(a.chunk(len(gamma)), gamma, beta, strict=True)
        return torch.cat([by_layers(x, g, b, pool) for x, g, b in parts])
    z = F.group_norm(a, a.shape[1], gamma, beta, 1e-5).relu()
    return F.avg_pool2d(z, 2) if pool else z


def case(
    shape: tuple[int, int, int, int], models: int | None = None, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Planes with a mean, parameters of both signs; each with its direction, then a gradient and its direction."""
    n, c, h, w = shape
    generator = torch.Generator().manual_seed(n * c * h * w)

    def draw(*size: int, scale: float = 1.0, shift: float = 0.0) -> Tensor:
        return torch.randn(size, generator=generator) * scale + shift

    row = (c,) if models is None else (models, c)
    a = draw(n, c, h, w, scale=2.0, shift=3.0)
    tensors = [a, draw(n, c, h, w), draw(*row, shift=0.5), draw(*row, scale=0.5), draw(*row), draw(*row)]
    planes = [x.to(dtype).contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x for x in tensors]
    return planes


def second_order(
    block: Callable[..., Tensor], a: Tensor, da: Tensor, gamma: Tensor, beta: Tensor, dgamma: Tensor, dbeta: Tensor,
    pool: bool,
) -> list[Tensor]:  # fmt: skip
    """Value, gradient of <value, g>, and gradient of <gradient, direction>, also for g."""
    a, gamma, beta = (x.clone().requires_grad_() for x in (a, gamma, beta))
    p = block(a, gamma, beta, pool)
    g = torch.cos(torch.arange(p.numel(), device=p.device, dtype=torch.float64)).reshape(p.shape).to(p.dtype)
    g = g.contiguous(memory_format=torch.channels_last).requires_grad_()
    first = torch.autograd.grad(p, (a, gamma, beta), g, create_graph=True)
    along = sum((x.double() * y.double()).sum() for x, y in zip(first, (da, dgamma, dbeta), strict=True))
    assert isinstance(along, Tensor)
    return [p, *first, *torch.autograd.grad(along, (g, a, gamma, beta))]


def ours(a: Tensor, gamma: Tensor, beta: Tensor, pool: bool) -> Tensor:
    return plane_block(a, gamma, beta, pool=pool)


@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_orders_against_float64(shape: tuple[int, int, int, int], pool: bool, backend: str) -> None:
    given = case(shape)
    truth = second_order(by_layers, *(x.double() for x in given), pool)
    plain = second_order(by_layers, *given, pool)
    with ops.use_backend(backend):
        got = second_order(ours, *given, pool)
    for name, want, theirs, mine in zip(
        ("p", "ga", "gg", "gb", "dp", "dga", "dgg", "dgb"), truth, plain, got, strict=True
    ):
        scale = want.abs().max().item()
        error = (mine.double() - want).abs().max().item()
        allowed = 2 * (theirs.double() - want).abs().max().item() + 16 * torch.finfo(torch.float32).eps * scale
        assert error <= allowed, (name, error, allowed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_cuda_against_float64(shape: tuple[int, int, int, int], pool: bool) -> None:
    given = case(shape)
    truth = second_order(by_layers, *(x.double() for x in given), pool)
    with ops.use_backend("cuda", FAMILY):
        got = second_order(ours, *(x.cuda() for x in given), pool)
    for mine, want in zip(got, truth, strict=True):
        torch.testing.assert_close(mine.cpu().double(), want, rtol=1e-4, atol=1e-5 * want.abs().max().item())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pool", [True, False])
def test_models_side_by_side_are_models_alone(pool: bool, backend: str) -> None:
    given = case((6, 32, 8, 8), models=3)
    with ops.use_backend(backend):
        together = second_order(ours, *given, pool)
        alone = [second_order(ours, *(x.chunk(3)[k].squeeze(0) if x.ndim == 2 else x.chunk(3)[k] for x in given), pool)
                 for k in range(3)]  # fmt: skip
    truth = second_order(by_layers, *(x.double() for x in given), pool)
    for place in (0, 1, 2, 3):  # later ones depend on the whole <gradient, direction>, whose g differs
        parts = [each[place] for each in alone]
        if place == 0:
            torch.testing.assert_close(together[0], torch.cat(parts))
        torch.testing.assert_close(together[place].double(), truth[place], rtol=1e-4, atol=1e-4)
    for mine, want in zip(together[4:], truth[4:], strict=True):
        torch.testing.assert_close(mine.double(), want, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("pool", [True, False])
def test_gradcheck_and_gradgradcheck(pool: bool) -> None:
    a, _, gamma, beta, _, _ = (x.double() for x in case((2, 3, 4, 5), models=2))
    inputs = tuple(x.requires_grad_() for x in (a, gamma, beta))

    def run(*tensors: Tensor) -> Tensor:
        return plane_block(*tensors, pool=pool)

    assert torch.autograd.gradcheck(run, inputs)
    assert torch.autograd.gradgradcheck(run, inputs)


def test_tangent_ops_are_forward_derivatives() -> None:
    """Against central differences of value and backward in float64."""
    a, da, gamma, beta, dgamma, dbeta = (x.double() for x in case((2, 4, 6, 6)))
    library = torch.ops.ddfast
    step = 1e-6
    gp, dgp = (torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(k)) for k in (1, 2))

    def at(t: float) -> list[Tensor]:
        moved = (a + t * da, gamma + t * dgamma, beta + t * dbeta)
        p, mean, rstd = library.plane_block(*moved, True, 1e-5)
        return [p, *library.plane_block_backward(gp + t * dgp, moved[0], mean, rstd, *moved[1:], True)]

    slopes = [(x - y) / (2 * step) for x, y in zip(at(step), at(-step), strict=True)]
    _, mean, rstd = library.plane_block(a, gamma, beta, True, 1e-5)
    known = (a, da, mean, rstd)
    dp, dmean, cov = library.plane_block_tangent(*known, gamma, beta, dgamma, dbeta, True)
    ga, *tangents = library.plane_block_tangent_backward(gp, dgp, *known, dmean, cov, gamma, beta, dgamma, True)
    torch.testing.assert_close(ga, at(0.0)[1])
    for mine, slope in zip((dp, *tangents), slopes, strict=True):
        torch.testing.assert_close(mine, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="needs the native module")
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_planes(shape: tuple[int, int, int, int]) -> None:
    """bfloat16 in and out, float32 between: as the reference does it, up to the last bit of bfloat16."""
    given = case(shape, dtype=torch.bfloat16)
    with ops.use_backend("cpp"):
        got = second_order(ours, *given, True)
    with ops.use_backend("reference"):
        wanted = second_order(ours, *given, True)
    for mine, want in zip(got, wanted, strict=True):
        assert mine.dtype == want.dtype
        scale = want.double().abs().max().item()
        torch.testing.assert_close(mine.double(), want.double(), rtol=2**-6, atol=2**-8 * scale)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="needs the native module")
@pytest.mark.parametrize("shape", SHAPES)
def test_bfloat16_derivatives_of_float32_planes(shape: tuple[int, int, int, int]) -> None:
    a, da, gamma, beta, dgamma, dbeta = case(shape)
    low = da.bfloat16().contiguous(memory_format=torch.channels_last)
    library, found = torch.ops.ddfast, []
    for backend in ("cpp", "reference"):
        with ops.use_backend(backend):
            p, mean, rstd = library.plane_block(a, gamma, beta, True, 1e-5)
            gp = torch.cos(p).bfloat16()
            first = library.plane_block_backward(gp, a, mean, rstd, gamma, beta, True)
            dp, dmean, cov = library.plane_block_tangent(a, low, mean, rstd, gamma, beta, dgamma, dbeta, True)
            known = (a, low, mean, rstd, dmean, cov, gamma, beta, dgamma, True)
            found.append([p, *first, dp, *library.plane_block_tangent_backward(gp, dp, *known)])
    for mine, want in zip(*found, strict=True):
        assert mine.dtype == want.dtype
        rough = {"rtol": 2**-7, "atol": 2**-8 * want.float().abs().max().item()}
        torch.testing.assert_close(
            mine.float(), want.float(), **(rough if want.dtype == torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-3})
        )
    assert [x.dtype for x in found[0]].count(torch.bfloat16) == 4


@pytest.mark.skipif("cpp" not in BACKENDS, reason="needs the native module")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_and_layout_do_not_matter(dtype: torch.dtype) -> None:
    given = case((5, 32, 6, 6), dtype=dtype)
    with ops.use_backend("cpp"):
        one = second_order(ours, *given, True)
        threads = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            planar = [x.contiguous() for x in given]
            three = second_order(ours, *planar, True)
        finally:
            torch.set_num_threads(threads)
    for x, y in zip(one, three, strict=True):
        assert torch.equal(x, y)


def test_constant_planes_and_empty_batch() -> None:
    p = plane_block(torch.full((1, 16, 4, 4), 1e4), torch.ones(16), torch.full((16,), 0.5))
    assert torch.equal(p, torch.full((1, 16, 2, 2), 0.5))
    assert plane_block(torch.empty(0, 16, 4, 4), torch.ones(16), torch.zeros(16)).shape == (0, 16, 2, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_a_number_comes_through(backend: str) -> None:
    a = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    a[0, 3, 2, 1] = float("nan")
    with ops.use_backend(backend):
        p = plane_block(a, torch.ones(16), torch.zeros(16))
    assert torch.isnan(p[0, 3]).all()
    assert torch.isfinite(p[1]).all()


@pytest.mark.parametrize("name", FAMILY)
def test_opcheck(name: str) -> None:
    a, da, gamma, beta, dgamma, dbeta = case((2, 16, 4, 4))
    library = torch.ops.ddfast
    p, mean, rstd = library.plane_block(a, gamma, beta, True, 1e-5)
    if name == "plane_block":
        args = (a.requires_grad_(), gamma.requires_grad_(), beta.requires_grad_(), True, 1e-5)
    elif name == "plane_block_backward":
        args = (torch.ones_like(p), a.requires_grad_(), mean, rstd, gamma.requires_grad_(), beta, True)
    elif name == "plane_block_tangent":
        args = (a, da, mean, rstd, gamma, beta, dgamma, dbeta, True)
    else:
        args = (torch.ones_like(p), p, a, da, mean, rstd, mean, rstd, gamma, beta, dgamma, True)
    torch.library.opcheck(getattr(library, name), args)


def test_third_order_says_so() -> None:
    a, da, gamma, beta, *_ = case((1, 16, 4, 4))
    a.requires_grad_()
    (g,) = torch.autograd.grad(plane_block(a, gamma, beta).square().sum(), a, create_graph=True)
    (second,) = torch.autograd.grad((g * da).sum(), a, create_graph=True)
    with pytest.raises(RuntimeError, match="plane_block: is differentiable twice"):
        torch.autograd.grad(second.sum(), a)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": torch.zeros(2, 4, 4)}, "a: got shape"),
        ({"a": torch.zeros(2, 16, 1, 4)}, "a: got planes of 1 x 4, expected at least 2 x 2"),
        ({"a": torch.zeros(2, 16, 4, 4, dtype=torch.float16)}, "a: got torch.float16"),
        ({"gamma": torch.zeros(15)}, "gamma: got shape"),
        ({"gamma": torch.zeros(3, 16), "beta": torch.zeros(3, 16)}, "gamma: got 3 models for 2 images"),
        ({"beta": torch.zeros(16, dtype=torch.float64)}, "beta: got torch.float64"),
    ],
)
def test_wrong_arguments(change: dict[str, Tensor], message: str) -> None:
    given = {"a": torch.zeros(2, 16, 4, 4), "gamma": torch.zeros(16), "beta": torch.zeros(16), **change}
    with pytest.raises((TypeError, ValueError), match=message):
        plane_block(**given)
