"""The C++ kernel of soft_label_loss: a row at a time in the first cache, loss and gradient in one pass over it."""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _registry
from ddfast.ops.soft_label_loss import reference


def soft_label_loss(
    logits: Tensor,
    values: Tensor,
    indices: Tensor | None,
    tail: Tensor | None,
    labels: Tensor | None,
    temperature: float,
    soft_weight: float,
    entropy: bool,
    mse_weight: float,
    gt_weight: float,
    want_grad: bool,
) -> tuple[Tensor, Tensor]:
    """See :func:`ddfast.ops.soft_label_loss.soft_label_loss`; not for float64 logits."""
    module = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"soft_label_loss: {_native.why_missing('_cpu')}")
    n, classes = logits.shape
    rows = logits.new_empty((n,), dtype=torch.float32)
    grad = logits.new_empty((n if want_grad else 0, classes))
    values = values.float() if values.dtype == torch.float64 else values
    logits, values = (t if t.stride(1) == 1 else t.contiguous() for t in (logits, values))
    top = None if indices is None or tail is None else (indices.contiguous(), tail.float().contiguous())
    labels = None if labels is None else labels.contiguous()
    wrong = module.soft_label_loss(
        (n, classes, values.shape[1]), *_address(logits), *_address(values),
        *((0, 0) if top is None else (t.data_ptr() for t in top)), 0 if labels is None else labels.data_ptr(),
        temperature, (soft_weight, mse_weight, gt_weight), entropy, rows.data_ptr(),
        grad.data_ptr() if want_grad else 0, torch.get_num_threads(),
    )  # fmt: skip
    if wrong >= 0:
        for classes_of in (indices, labels):
            if classes_of is not None:
                reference.check_labels(classes_of, classes)
    return rows, grad


def _address(rows: Tensor) -> tuple[int, int, int]:
    return rows.data_ptr(), _native.DTYPE_CODES[str(rows.dtype).removeprefix("torch.")], rows.stride(0)
