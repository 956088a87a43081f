"""soft_label_loss: against torch's own losses in float64, gradients of both orders, stored labels, checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from ddfast import _native, ops
from ddfast.ops import soft_label_loss


@pytest.fixture(autouse=True, params=["default", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """The default for these sizes is torch's own functions; the reference is the op with its own gradients."""
    if request.param == "default":
        yield
        return
    with ops.use_backend(request.param):
        yield


NATIVE = pytest.param("cpp", marks=pytest.mark.skipif(_native.cpu() is None, reason=_native.why_missing("_cpu")))
with_cpp = pytest.mark.parametrize("backend", ["default", "reference", NATIVE], indirect=True)


Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
OPTIONS: dict[str, dict[str, Any]] = {
    "kl": {"kind": "kl", "temperature": 20.0},
    "kl-cold": {"kind": "kl", "temperature": 0.5},
    "ce": {"kind": "ce", "temperature": 3.0},
    "mse_gt": {"kind": "mse_gt", "mse_weight": 0.7, "ce_weight": 0.1},
}


def by_torch(name: str, z: Tensor, t: Tensor, labels: Tensor) -> Tensor:
    """The same from torch.nn.functional."""
    options = OPTIONS[name]
    if name == "mse_gt":
        return 0.7 * F.mse_loss(z, t) + 0.1 * F.cross_entropy(z, labels)
    scale = 1 / options["temperature"]
    if name == "ce":
        return F.cross_entropy(z * scale, torch.softmax(t * scale, 1))
    return F.kl_div(F.log_softmax(z * scale, 1), F.log_softmax(t * scale, 1), reduction="batchmean", log_target=True)


def case(n: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n * classes)
    z, t = (torch.randn(n, classes, generator=generator) * 4 for _ in range(2))
    return z.to(dtype), t.to(dtype), torch.randint(0, classes, (n,), generator=generator)


def options(name: str, labels: Tensor) -> dict[str, Any]:
    return {**OPTIONS[name], **({"labels": labels} if name == "mse_gt" else {})}


def top_k(t: Tensor, k: int) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Labels as a store gives them, and the logits they stand for."""
    values, indices = t.topk(k, 1)
    rest = t.double().scatter(1, indices, float("-inf"))
    tail = (torch.logsumexp(rest, 1) - torch.tensor(t.shape[1] - k).double().log()).to(t.dtype)
    return (values, indices, tail), tail[:, None].expand_as(t).scatter(1, indices, values)


@with_cpp
@pytest.mark.usefixtures("poisoned_empty")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("shape", [(5, 10), (3, 1000), (4, 1), (1, 33)])
def test_loss_and_gradient_against_float64(shape: tuple[int, int], name: str, dtype: torch.dtype) -> None:
    z, t, labels = case(*shape, dtype)
    truth_z, plain_z, our_z = (z.to(d, copy=True).requires_grad_() for d in (torch.float64, torch.float32, dtype))
    truth = by_torch(name, truth_z, t.double(), labels)
    plain = by_torch(name, plain_z, t.float(), labels)
    ours = soft_label_loss(our_z, t, **options(name, labels))
    pairs = ((truth, truth_z), (plain, plain_z), (ours, our_z))
    truth_grad, plain_grad, our_grad = (torch.autograd.grad(value, x)[0] for value, x in pairs)
    eps = torch.finfo(torch.float32).eps
    assert ours.dtype == torch.float32
    assert our_grad.dtype == dtype
    wanted = truth.item()
    assert abs(ours.item() - wanted) <= 2 * abs(plain.item() - wanted) + 8 * eps * (1 + abs(wanted))
    allowed = 2 * (plain_grad - truth_grad).abs().max() + 8 * eps + torch.finfo(dtype).eps * truth_grad.abs()
    assert bool(((our_grad - truth_grad).abs() <= allowed).all())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("k", [1, 3, 8])
def test_stored_labels_stand_for_dense_logits(name: str, k: int) -> None:
    z, t, labels = case(6, 9, torch.float64)
    stored, spread = top_k(t, k)
    ours, dense = (z.clone().requires_grad_() for _ in range(2))
    first = soft_label_loss(ours, stored, **options(name, labels))
    second = soft_label_loss(dense, spread, **options(name, labels))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(*(torch.autograd.grad(loss, x)[0] for loss, x in ((first, ours), (second, dense))))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradcheck_twice(name: str) -> None:
    z, t, labels = case(4, 6, torch.float64)
    z.requires_grad_()
    for teacher in (t, top_k(t, 2)[0]):
        for reduction in ("mean", "none"):

            def loss(x: Tensor, teacher: Any = teacher, reduction: str = reduction) -> Tensor:
                return soft_label_loss(x, teacher, reduction=reduction, **options(name, labels))

            assert torch.autograd.gradcheck(loss, (z,))
            assert torch.autograd.gradgradcheck(loss, (z,))


@pytest.mark.parametrize("name", OPTIONS)
def test_gradient_of_the_gradient_reaches_the_weights(name: str) -> None:
    z, t, labels = case(4, 6, torch.float64)
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    grads = []
    for loss in (
        soft_label_loss(z @ weight, t, **options(name, labels)),
        by_torch(name, z @ weight, t, labels),
    ):
        (first,) = torch.autograd.grad(loss, weight, create_graph=True)
        grads.append(torch.autograd.grad(first.square().sum(), weight)[0])
    torch.testing.assert_close(*grads)


@with_cpp
def test_reductions_and_strides() -> None:
    z, t, _ = case(6, 9)
    rows = soft_label_loss(z, t, reduction="none")
    torch.testing.assert_close(soft_label_loss(z, t), rows.mean())
    torch.testing.assert_close(soft_label_loss(z, t, reduction="sum"), rows.sum())
    wide = torch.full((12, 20), float("nan"))
    wide[::2, 3:12] = z
    torch.testing.assert_close(soft_label_loss(wide[::2, 3:12], t.t().contiguous().t(), reduction="none"), rows)
    assert soft_label_loss(z[:0], t[:0], reduction="none").shape == (0,)
    assert float(soft_label_loss(z[:0], t[:0], reduction="sum")) == 0.0


@with_cpp
def test_classes_without_mass_cost_nothing() -> None:
    z, t, _ = case(3, 5)
    t[:, 1] = float("-inf")
    z.requires_grad_()
    loss = soft_label_loss(z, t)
    loss.backward()
    p = torch.softmax(t, 1)
    assert bool(torch.isfinite(loss))
    torch.testing.assert_close(z.grad, (torch.softmax(z.detach(), 1) - p) / 3)


@with_cpp
def test_equal_logits_have_no_loss_however_large() -> None:
    z = torch.tensor([[1e4, -1e4, 0.0], [80.0, 80.0, -80.0]])
    assert soft_label_loss(z, z.clone(), temperature=2.0).item() == pytest.approx(0.0, abs=1e-6)
    assert bool(soft_label_loss(torch.full((1, 3), float("nan")), z[:1]).isnan())


@with_cpp
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_stored_labels_of_any_dtype_in_float32(name: str, dtype: torch.dtype) -> None:
    z, t, labels = case(5, 40)
    (values, indices, tail), _ = top_k(t, 7)
    stored = (values.to(dtype), indices, tail.to(dtype))
    spread = stored[2].double()[:, None].expand_as(t).scatter(1, indices, stored[0].double())
    ours, truth = z.clone().requires_grad_(), z.double().requires_grad_()
    first = soft_label_loss(ours, stored, reduction="none", **options(name, labels))
    second = soft_label_loss(ours, (stored[0], indices.t().contiguous().t(), stored[2]), **options(name, labels))
    wanted = torch.stack([by_torch(name, truth[i : i + 1], spread[i : i + 1], labels[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(first, wanted.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(second, first.mean(), rtol=1e-6, atol=1e-6)
    grads = torch.autograd.grad(first.sum(), ours)[0], torch.autograd.grad(wanted.sum(), truth)[0].float()
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


@with_cpp
@pytest.mark.parametrize("name", OPTIONS)
def test_hessian_in_float32(name: str) -> None:
    z, t, labels = case(4, 33)
    products = []
    for x, teacher in ((z.clone(), t), (z.double(), t.double())):
        x.requires_grad_()
        loss = by_torch(name, x, teacher, labels) if x.dtype == torch.float64 else None
        loss = soft_label_loss(x, teacher, **options(name, labels)) if loss is None else loss
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        products.append(torch.autograd.grad((first * teacher).sum(), x)[0].float())
    torch.testing.assert_close(*products, rtol=1e-4, atol=1e-6)


@with_cpp
@pytest.mark.parametrize("place", ["student", "teacher"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite(place: str, value: float) -> None:
    z, t, _ = case(3, 50)
    (z if place == "student" else t)[1, 7] = value
    rows = soft_label_loss(z, t, reduction="none")
    wanted = torch.tensor([by_torch("kl-cold", z[i : i + 1] / 2, t[i : i + 1] / 2, z) for i in range(3)])
    if place == "teacher" and value == float("-inf"):  # torch's own loss is NaN there
        rest = [torch.cat([x[1, :7], x[1, 8:]]).double() for x in (z, t)]
        log_p, log_q = torch.log_softmax(rest[1], 0), torch.log_softmax(z[1].double(), 0)
        wanted[1] = (log_p.exp() * (log_p - torch.cat([log_q[:7], log_q[8:]]))).sum()
    torch.testing.assert_close(rows, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_threads_and_instruction_sets_change_nothing(dtype: torch.dtype) -> None:
    z, t, _ = case(300, 1000, dtype)
    before, isa = torch.get_num_threads(), _native.cpu().isa()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            x = z.clone().requires_grad_()
            rows = soft_label_loss(x, t, temperature=20.0, reduction="none")
            results.append((rows.detach(), torch.autograd.grad(rows.sum(), x)[0]))
        _native.cpu().set_isa("v3" if isa == "v4" else isa)
        narrow = soft_label_loss(z, t, temperature=20.0, reduction="none")
    finally:
        torch.set_num_threads(before)
        _native.cpu().set_isa(isa)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    torch.testing.assert_close(narrow, results[0][0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["default"], indirect=True)
def test_large_batches_take_the_kernel() -> None:
    z, t, _ = case(64, 1000)
    taken = soft_label_loss(z, t, temperature=20.0)
    for name in ("cpp", "reference") if _native.cpu() else ("reference",):
        with ops.use_backend(name):
            torch.testing.assert_close(soft_label_loss(z, t, temperature=20.0), taken, rtol=1e-5, atol=1e-7)
    with ops.use_backend("cpp" if _native.cpu() else "reference"):
        same = soft_label_loss(z, t, temperature=20.0)
    assert torch.equal(same, taken) or _native.cpu() is None


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_half_precision_gradients_are_rounded_like_torch() -> None:
    """Tiny ones, which float16 has no normal number for, and ones that it rounds up to infinity."""
    z, t, labels = case(40, 100, torch.float16)
    for weight in (1.0, 1e-4, 3e4, 1e7):
        grads = []
        for dtype in (torch.float16, torch.float32):
            x = z.to(dtype).requires_grad_()
            loss = soft_label_loss(
                x, t, kind="mse_gt", labels=labels, mse_weight=weight, ce_weight=0.0, reduction="sum"
            )
            grads.append(torch.autograd.grad(loss, x)[0])
        assert torch.equal(grads[0], grads[1].half())


@pytest.mark.parametrize("backend", ["default"], indirect=True)
def test_transforms_of_torch_func_and_forward_mode() -> None:
    z, t, _ = case(64, 1000)
    x = z.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(soft_label_loss(x, t), x)
    torch.testing.assert_close(torch.func.grad(soft_label_loss)(z, t), wanted)
    tangent = torch.func.jvp(lambda each: soft_label_loss(each, t), (z,), (t,))[1]
    torch.testing.assert_close(tangent, (wanted * t).sum(), rtol=1e-4, atol=1e-6)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(z, t)
        tangent = torch.autograd.forward_ad.unpack_dual(soft_label_loss(dual, t)).tangent
    torch.testing.assert_close(tangent, (wanted * t).sum(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", [NATIVE], indirect=True)
def test_float64_is_refused_by_the_kernel() -> None:
    z, t, _ = case(2, 3, torch.float64)
    with pytest.raises(ops.BackendError, match="float64 logits are left to the reference"):
        soft_label_loss(z, t)


def test_registration() -> None:
    z, t, labels = case(4, 6, torch.float64)
    z.requires_grad_()
    values, indices, tail = top_k(t, 2)[0]
    forward = torch.ops.ddfast.soft_label_loss.default
    torch.library.opcheck(forward, (z, t, None, None, None, 2.0, 1.0, True, 0.0, 0.0, True))
    torch.library.opcheck(forward, (z, values, indices, tail, labels, 2.0, 0.0, False, 1.0, 0.1, True))
    torch.library.opcheck(forward, (z.detach(), t, None, None, None, 2.0, 1.0, True, 0.0, 0.0, False))
    upstream = torch.ones(4, dtype=torch.float64, requires_grad=True)
    weights = (2.0, 1.0, 0.5, 0.25)
    torch.library.opcheck(torch.ops.ddfast.soft_label_loss_backward.default, (upstream, t, z, *weights))
    twice = torch.ops.ddfast.soft_label_loss_double_backward.default
    torch.library.opcheck(twice, (t, upstream.detach(), t, z.detach(), *weights))


def test_wrong_arguments_are_named() -> None:
    z, t, labels = case(4, 6)
    (values, indices, tail), _ = top_k(t, 2)
    for message, arguments, keywords in (
        (r"teacher: gave logits \[4, 5\], the student \[4, 6\]; expected the same", (z, t[:, :5]), {}),
        (r"teacher: gave logits \[3, 6\]", (z, t[:3]), {}),
        ("temperature: got inf", (z, t), {"temperature": float("inf")}),
        ("kind: got 'js'", (z, t), {"kind": "js"}),
        ("reduction: got 'batchmean'", (z, t), {"reduction": "batchmean"}),
        ("temperature: got 0.0", (z, t), {"temperature": 0.0}),
        ("labels: missing, needed for kind 'mse_gt'", (z, t), {"kind": "mse_gt"}),
        ("labels: given, but of no use to kind 'kl'", (z, t), {"labels": labels}),
        ("labels: got class 6, expected 0 to 5", (z, t), {"kind": "mse_gt", "labels": labels * 0 + 6}),
        ("teacher: got 2 tensors", (z, (values, indices)), {}),
        ("teacher: wants a gradient", (z, t.clone().requires_grad_()), {}),
        (r"teacher indices: got shape \(4, 1\)", (z, (values, indices[:, :1], tail)), {}),
        ("labels: got class 6, expected 0 to 5", (z, (values, indices + 6 - indices, tail)), {}),
        ("logits: got shape", (z[0], t[0]), {}),
    ):
        with pytest.raises(ValueError, match=message):
            soft_label_loss(*arguments, **keywords)
    for wrong in ((z.int(), t), (z, t.int()), (z, (values, indices.int(), tail)), (z, None)):
        with pytest.raises(TypeError):
            soft_label_loss(*wrong)
