"""Losses of a student against a teacher's logits, whole or the k largest of them, with their gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ddfast.ops import _registry
from ddfast.ops._checks import check_device, check_tensor
from ddfast.ops.soft_label_loss import cpp, reference

__all__ = ["soft_label_loss"]

KINDS = ("kl", "ce", "mse_gt")
SMALL = 40_000  # elements of logits
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def soft_label_loss(
    logits: Tensor,
    teacher: Tensor | Sequence[Tensor],
    *,
    kind: str = "kl",
    temperature: float = 1.0,
    labels: Tensor | None = None,
    mse_weight: float = 1.0,
    ce_weight: float = 0.025,
    reduction: str = "mean",
) -> Tensor:
    """Loss of student logits z against teacher logits t.

    With ``p = softmax(t / T)`` and ``q = softmax(z / T)``, for each row

    - ``"kl"``: ``sum_j p_j (log p_j - log q_j)``, in nats, without the factor T**2 (RDED, Sun et al. 2024, arXiv
      2312.03526; SRe2L, Yin et al. 2023, arXiv 2306.13092);
    - ``"ce"``: ``-sum_j p_j log q_j``, the same gradient;
    - ``"mse_gt"``: ``mse_weight * mean_j (z_j - t_j)**2 - ce_weight * log softmax(z)[label]`` (EDC, Shao et al. 2024,
      arXiv 2404.13733); the temperature plays no part.

    Top-k labels stand for the logits in which every class beyond the k has the tail (see
    ``ddfast.store.label_codec``).  Differentiable twice with respect to ``logits``, not with respect to the labels.
    Sums are in float32, or float64 for float64 logits.

    Args:
        logits: float32, bfloat16, float16 or float64 [n, C].
        teacher: logits, any float dtype [n, C]; or ``(values [n, k], indices int64 [n, k], tail [n])`` as a label store
            gives them, indices distinct within a row.
        kind: see above.
        temperature: T, positive.
        labels: int64 [n], 0 <= label < C, for ``"mse_gt"`` only.
        mse_weight, ce_weight: for ``"mse_gt"``; the defaults are EDC's.
        reduction: ``"mean"`` over rows (torch's "batchmean"), ``"sum"`` or ``"none"``.

    Returns:
        Scalar, or [n] for ``"none"``; float32 (float64 for float64 logits).

    Raises:
        TypeError, ValueError: wrong dtype, shape, device or option; labels that want a gradient; (CPU only) a class out
            of range.
    """
    values, indices, tail = _parts(logits, teacher)
    if kind not in KINDS:
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join(KINDS)}")
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"reduction: got {reduction!r}, expected 'mean', 'sum' or 'none'")
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature: got {temperature!r}, expected a positive number")
    if (kind == "mse_gt") != (labels is not None):
        raise ValueError(
            f"labels: {'missing, needed for' if labels is None else 'given, but of no use to'} kind {kind!r}"
        )
    if labels is not None:
        check_tensor("labels", labels, torch.int64, (logits.shape[0],))
        check_device(logits, labels=labels)
    if _better_by_torch(logits):
        target = reference.dense(values, indices, tail, reference.widen(logits))
        entropy = kind == "kl"
        rows = reference.composed(logits, target, labels, temperature, entropy, mse_weight, ce_weight)
    else:
        weights = (0.0, False, float(mse_weight), float(ce_weight))
        if labels is None:
            weights = (1.0, kind == "kl", 0.0, 0.0)
        want_grad = logits.requires_grad and torch.is_grad_enabled()
        rows = torch.ops.ddfast.soft_label_loss(
            logits, values, indices, tail, labels, float(temperature), *weights, want_grad
        )[0]
    return rows if reduction == "none" else rows.sum() if reduction == "sum" else rows.mean()


def _better_by_torch(logits: Tensor) -> bool:
    """Whether torch's own functions are the fastest here: on CPUs, where the C++ kernel does not run, where calling it
    takes longer than the loss does, inside torch.compile, which fuses them, and under torch.func and forward mode,
    which have no rule for the kernel."""
    if logits.device.type != "cpu" or _registry.forced_backend(OP.name):
        return False
    if torch.compiler.is_compiling() or logits.numel() < SMALL:
        return True
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return True
    return bool(_rejects(logits) or _registry.native_missing("cpu"))


def _parts(logits: Tensor, teacher: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    check_tensor("logits", logits, _FLOATS, (None, None))
    n, classes = logits.shape
    if classes < 1:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected at least one class")
    parts = (teacher,) if isinstance(teacher, Tensor) else tuple(teacher)
    if len(parts) not in (1, 3):
        raise ValueError(f"teacher: got {len(parts)} tensors, expected logits or (values, indices, tail)")
    if any(isinstance(part, Tensor) and part.requires_grad for part in parts):
        raise ValueError("teacher: wants a gradient, which this loss has for logits only; detach it first")
    if len(parts) == 1:
        if isinstance(teacher, Tensor) and teacher.ndim == 2 and teacher.shape != logits.shape:
            raise ValueError(
                f"teacher: gave logits {list(teacher.shape)}, the student {list(logits.shape)}; expected the same "
                "number of classes (slice the teacher's head to the classes of the set)"
            )
        check_tensor("teacher", parts[0], _FLOATS, (n, classes))
        check_device(logits, teacher=parts[0])
        return parts[0], None, None
    values, indices, tail = parts
    check_tensor("teacher values", values, _FLOATS, (n, None))
    check_tensor("teacher indices", indices, torch.int64, (n, values.shape[1]))
    check_tensor("teacher tail", tail, _FLOATS, (n,))
    if not 1 <= values.shape[1] <= classes:
        raise ValueError(
            f"teacher values: got {values.shape[1]} a row, expected 1 to {classes} (the classes of logits)"
        )
    check_device(logits, values=values, indices=indices, tail=tail)
    return values, indices, tail


def _dtype(logits: Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _fake(
    logits: Tensor, values: Tensor, indices: Tensor | None, tail: Tensor | None, labels: Tensor | None,
    temperature: float, soft_weight: float, entropy: bool, mse_weight: float, gt_weight: float, want_grad: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    n, classes = logits.shape
    return logits.new_empty((n,), dtype=_dtype(logits)), logits.new_empty((n if want_grad else 0, classes))


def _triton(*args: Any) -> tuple[Tensor, Tensor]:
    from ddfast.ops.soft_label_loss.triton_kernels import soft_label_loss as run

    result: tuple[Tensor, Tensor] = run(*(*args, *_fake(*args)))
    return result


def _rejects(*args: Any) -> str:
    return "float64 logits are left to the reference" if args[0].dtype == torch.float64 else ""


_WEIGHTS = "float temperature, float soft_weight, {}float mse_weight, float gt_weight"
OP = _registry.define(
    "soft_label_loss(Tensor logits, Tensor values, Tensor? indices, Tensor? tail, Tensor? labels, "
    f"{_WEIGHTS.format('bool entropy, ')}, bool want_grad) -> (Tensor, Tensor)",
    reference.soft_label_loss,
    fake=_fake,
)
OP.add_backend("cpp", cpp.soft_label_loss, rejects=_rejects)
OP.add_backend("triton", _triton, rejects=_rejects)
_registry.define(
    f"soft_label_loss_backward(Tensor upstream, Tensor grad, Tensor logits, {_WEIGHTS.format('')}) -> Tensor",
    reference.backward,
    fake=lambda upstream, grad, logits, *_: torch.empty_like(logits),
)
_registry.define(
    "soft_label_loss_double_backward(Tensor vector, Tensor upstream, Tensor grad, Tensor logits, "
    f"{_WEIGHTS.format('')}) -> (Tensor, Tensor)",
    reference.double_backward,
    fake=lambda vector, upstream, grad, logits, *_: (torch.empty_like(upstream), torch.empty_like(logits)),
)


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[1])
    ctx.weights = (inputs[5], inputs[6], inputs[8], inputs[9])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, upstream: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    logits, grad = ctx.saved_tensors
    result: Tensor = torch.ops.ddfast.soft_label_loss_backward(upstream, grad, logits, *ctx.weights)
    return (result, *[None] * 10)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.weights = inputs[3:]


def _double_backward(ctx: Any, vector: Tensor) -> tuple[Tensor | None, ...]:
    upstream, product = torch.ops.ddfast.soft_label_loss_double_backward(vector, *ctx.saved_tensors, *ctx.weights)
    return upstream, None, product, None, None, None, None


for _name, _formula, _context in (
    ("soft_label_loss", _backward, _keep_forward),
    ("soft_label_loss_backward", _double_backward, _keep_backward),
):
    torch.library.register_autograd(f"ddfast::{_name}", _formula, setup_context=_context, lib=_registry._LIB)
