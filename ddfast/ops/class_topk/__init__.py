"""Streaming selection of the K best-scored samples of every class.

There is no Triton or CUDA kernel: a batch brings one score per image, a few hundred bytes, after a network's forward
pass over all its crops.  The C++ kernel merges them in tens of microseconds on the CPU; on the GPU the reference's
sorts do it without a copy to the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _checks, _registry
from ddfast.ops.class_topk import reference

EMPTY_KEY = 2**63 - 1
_FLOATS = (torch.float32, torch.float64)


def empty_topk(
    num_classes: int, k: int, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """A table without samples: scores [num_classes, k] of +inf and keys [num_classes, k] of ``EMPTY_KEY``."""
    if num_classes < 0 or k < 0:
        raise ValueError(f"num_classes, k: got {num_classes}, {k}, expected numbers >= 0")
    scores = torch.full((num_classes, k), float("inf"), dtype=dtype, device=device)
    return scores, torch.full((num_classes, k), EMPTY_KEY, dtype=torch.int64, device=device)


def class_topk(
    scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Merges a batch of scored samples into a table with the K smallest scores of every class.

    Row ``c`` of the result holds the K smallest pairs (score, key), compared by score and then by key, of row ``c`` of
    the old table and of the samples with label ``c``, in ascending order.  The result depends only on the set of
    samples seen since the empty table (:func:`empty_topk`), not on their order or batching.  Empty slots are
    (+inf, 2**63 - 1); -0.0 counts and is returned as 0.0; NaN is larger than everything, empty slots included, so a
    sample with a NaN score is never kept.  Pure: the given table is left as it is.

    Class ranking of RDED (Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024) with a defined
    order among ties.

    Args:
        scores: float32 or float64 [n], smaller is better.
        labels: int64 [n], 0 <= label < C.
        keys: int64 [n], identifies a sample (for example its position in the source) and breaks ties.
        best_scores: dtype of ``scores`` [C, K], rows ascending, as returned by an earlier call.
        best_keys: int64 [C, K].

    Returns:
        ``(best_scores, best_keys)``, new tensors of the table's shapes.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, or (CPU only) a label out of range.  On a GPU labels are
            not read back: samples with a label out of range are left out.
    """
    _checks.check_tensor("scores", scores, _FLOATS, (None,))
    n = scores.shape[0]
    _checks.check_tensor("labels", labels, torch.int64, (n,))
    _checks.check_tensor("keys", keys, torch.int64, (n,))
    _checks.check_tensor("best_scores", best_scores, scores.dtype, (None, None))
    _checks.check_tensor("best_keys", best_keys, torch.int64, tuple(best_scores.shape))
    _checks.check_device(scores, labels=labels, keys=keys, best_scores=best_scores, best_keys=best_keys)
    result: tuple[Tensor, Tensor] = torch.ops.ddfast.class_topk(scores, labels, keys, best_scores, best_keys)
    return result


def _fake(
    scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor
) -> tuple[Tensor, Tensor]:
    return best_scores.new_empty(best_scores.shape), best_keys.new_empty(best_keys.shape)


OP = _registry.define(
    "class_topk(Tensor scores, Tensor labels, Tensor keys, Tensor best_scores, Tensor best_keys) -> (Tensor, Tensor)",
    reference.class_topk,
    fake=_fake,
)


def _cpp(scores: Tensor, labels: Tensor, keys: Tensor, best_scores: Tensor, best_keys: Tensor) -> tuple[Tensor, Tensor]:
    module = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"class_topk: {_native.why_missing('_cpu')}")
    given = [t.contiguous() for t in (scores, labels, keys, best_scores, best_keys)]
    new_scores, new_keys = _fake(*given)
    select = module.class_topk_f64 if scores.dtype == torch.float64 else module.class_topk_f32
    head, table = [t.data_ptr() for t in given[:3]], [t.data_ptr() for t in (*given[3:], new_scores, new_keys)]
    if select(*head, scores.shape[0], *best_scores.shape, *table) >= 0:
        reference.check_labels(labels, best_scores.shape[0])
    return new_scores, new_keys


OP.add_backend("cpp", _cpp)
