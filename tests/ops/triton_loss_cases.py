"""Cases of soft_label_loss's kernel, run by test_triton.py as triton_cases.py is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ddfast import ops
from ddfast.ops.soft_label_loss import soft_label_loss
from tests.ops.triton_cases import DEVICE, INTERPRETED

OPTIONS: dict[str, dict[str, Any]] = {
    "kl": {"kind": "kl", "temperature": 20.0},
    "ce": {"kind": "ce", "temperature": 0.7},
    "mse_gt": {"kind": "mse_gt", "mse_weight": 0.7, "ce_weight": 0.1},
}


def guarded_rows(values: Tensor, dtype: torch.dtype) -> Tensor:
    """``values`` with strange numbers behind every row, which a read past its end would bring in."""
    store = torch.full((values.shape[0], values.shape[1] + 5), 1e4, dtype=dtype)
    store[:, : values.shape[1]] = values
    return store.to(DEVICE)[:, : values.shape[1]]


def run(z: Tensor, teacher: Any, **options: Any) -> tuple[Tensor, Tensor]:
    x = z.clone().requires_grad_()
    rows = soft_label_loss(x, teacher, reduction="none", **options)
    upstream = torch.linspace(0.5, 2, len(rows), device=DEVICE, dtype=rows.dtype)
    (grad,) = torch.autograd.grad(rows, x, upstream)
    return rows.detach(), grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(
    ("n", "classes", "k"), [(3, 10, 0), (2, 1500, 0), (3, 10, 3), (2, 1500, 10), (2, 1, 0), (2, 17, 1)]
)
def test_against_float64(n: int, classes: int, k: int, name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(classes + k)
    z, t = (guarded_rows(torch.randn(n, classes, generator=generator) * 4, dtype) for _ in range(2))
    options = dict(OPTIONS[name])
    if name == "mse_gt":
        options["labels"] = (torch.arange(n) * 7 % classes).to(DEVICE)
    teacher: Any = t
    if k:
        values, indices = t.topk(k, 1)
        teacher = (values, indices, t.float().mean(1).to(dtype))
    wide = t.double() if not k else (teacher[0].double(), teacher[1], teacher[2].double())
    truth, truth_grad = run(z.double(), wide, **options)
    with ops.use_backend("reference"):
        plain, plain_grad = run(z, teacher, **options)
    with ops.use_backend("triton", ["soft_label_loss"]):
        rows, grad = run(z, teacher, **options)
    eps = torch.finfo(torch.float32).eps
    # the interpreter truncates bfloat16 where it should round
    store = torch.finfo(dtype).eps * 2 * truth_grad.abs() if dtype != torch.float32 else 0.0
    assert bool(((rows - truth).abs() <= 2 * (plain - truth).abs().max() + 8 * eps * (1 + truth.abs())).all())
    assert grad.dtype == dtype
    slack = 2 * (plain_grad.double() - truth_grad).abs().max() if dtype == torch.float32 else 0.0
    assert bool(((grad.double() - truth_grad).abs() <= slack + 8 * eps + store).all())


def test_infinite_and_missing_logits() -> None:
    inf = float("inf")
    z = torch.tensor([[1.0, 2.0, 3.0]] * 4, device=DEVICE)
    t = torch.tensor([[0.0, -inf, 1.0], [1.0, inf, 0.0], [0.0, float("nan"), 1.0], [5.0, 5.0, 5.0]], device=DEVICE)
    with ops.use_backend("reference"):
        wanted = run(z, t)
    with ops.use_backend("triton", ["soft_label_loss"]):
        given = run(z, t)
    for value, truth in zip(given, wanted, strict=True):
        torch.testing.assert_close(value, truth, equal_nan=True)


def test_forward_only_and_empty() -> None:
    z, t = torch.randn(3, 40, device=DEVICE), torch.randn(3, 40, device=DEVICE)
    with ops.use_backend("triton", ["soft_label_loss"]):
        rows = soft_label_loss(z, t, reduction="none")
        assert soft_label_loss(z[:0], t[:0], reduction="none").shape == (0,)
    with ops.use_backend("reference"):
        torch.testing.assert_close(rows, soft_label_loss(z, t, reduction="none"))


def test_label_out_of_range_is_nan() -> None:
    z, labels = torch.zeros(3, 4, device=DEVICE), torch.tensor([3, 4, -1], device=DEVICE)
    with ops.use_backend("triton", ["soft_label_loss"]):
        rows = soft_label_loss(z, z.clone(), kind="mse_gt", labels=labels, reduction="none")
    assert rows.isnan().tolist() == [False, True, True]


@pytest.mark.skipif(INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("k", [0, 10, 100])
def test_large(k: int) -> None:
    generator = torch.Generator().manual_seed(5)
    z, t = (torch.randn(512, 10_450, generator=generator).to(DEVICE) * 3 for _ in range(2))
    teacher: Any = (*t.topk(k, 1), t.mean(1)) if k else t
    wide = tuple(x.double() if x.is_floating_point() else x for x in teacher) if k else t.double()
    truth, truth_grad = run(z.double(), wide, temperature=4.0)
    with ops.use_backend("triton", ["soft_label_loss"]):
        rows, grad = run(z, teacher, temperature=4.0)
    torch.testing.assert_close(rows.double(), truth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grad.double(), truth_grad, rtol=1e-4, atol=1e-8)
