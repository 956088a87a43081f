"""Loss of each crop against its image's label, and the best crop of each image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ddfast import _native
from ddfast.ops import _checks, _registry
from ddfast.ops.crop_score import reference

_LOW = (torch.float32, torch.bfloat16, torch.float16)


def crop_score(logits: Tensor, labels: Tensor, *, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Scores crops by the observer's loss on the label of their image, and finds each image's best crop.

    With ``z = logits[i, k]`` and ``y = labels[i]``, the loss is the cross-entropy, computed so that confident crops do
    not tie at zero: ``t = logsumexp over j != y of z[j], minus z[y]``, ``loss = softplus(t) = log(1 + exp(t))``.  It is
    accurate to a few float32 roundings however small it is; with a single class it is 0.

    ``literal=True`` computes ``-log(softmax(z)[y])`` step by step in float32, as published code does: confident crops
    tie at exactly -0.0 (margins above about 17 to 24), values are quantised near zero, and margins beyond about -104
    give +inf.

    The best crop is the smallest loss; among equal losses (-0.0 equals 0.0) the lowest index.  NaN counts as larger
    than everything, +inf included; an image whose losses are all NaN gets index 0.  Not differentiable.

    Realism score of RDED (Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024).

    Args:
        logits: float32, bfloat16, float16 or float64 [n, m, C]: m crops of n images, C classes; m, C >= 1.
        labels: int64 [n], 0 <= label < C.
        literal: the formula of published code instead of the accurate one.

    Returns:
        ``(loss, best_loss, best_index)``: float32 [n, m], float32 [n], int64 [n]; losses are in nats, float64 for
        float64 logits.

    Raises:
        TypeError, ValueError: wrong dtype, shape or device, or (CPU only) a label out of range.  On a GPU labels are
            not read back: a label out of range gives NaN losses or a device-side error.
    """
    _checks.check_tensor("logits", logits, (*_LOW, torch.float64), (None, None, None))
    n, m, classes = logits.shape
    if m < 1 or classes < 1:
        raise ValueError(f"logits: got shape {tuple(logits.shape)}, expected at least one crop and one class")
    _checks.check_tensor("labels", labels, torch.int64, (n,))
    _checks.check_device(logits, labels=labels)
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.ddfast.crop_score(logits, labels, literal)
    return result


def _fake(logits: Tensor, labels: Tensor, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    n, m, _ = logits.shape
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    loss = logits.new_empty((n, m), dtype=dtype)
    return loss, logits.new_empty((n,), dtype=dtype), labels.new_empty((n,))


OP = _registry.define(
    "crop_score(Tensor logits, Tensor labels, bool literal=False) -> (Tensor, Tensor, Tensor)",
    reference.crop_score,
    fake=_fake,
)


def _rejects(logits: Tensor, labels: Tensor, literal: bool = False) -> str:
    return "float64 logits are left to the reference" if logits.dtype == torch.float64 else ""


def _cpp(logits: Tensor, labels: Tensor, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    module = _native.cpu()
    if module is None:
        raise _registry.BackendError(f"crop_score: {_native.why_missing('_cpu')}")
    results = _fake(logits, labels)
    if _launch(module.crop_score, logits, labels, literal, results, torch.get_num_threads()) >= 0:
        reference.check_labels(labels, logits.shape[2])
    return results


def _cuda(logits: Tensor, labels: Tensor, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    module = _native.cuda()
    if module is None:
        raise _registry.BackendError(f"crop_score: {_native.why_missing('_cuda')}")
    results = _fake(logits, labels)
    with torch.cuda.device(logits.device):
        stream = torch.cuda.current_stream().cuda_stream
        _launch(module.crop_score, logits, labels, literal, results, stream)
    return results


def _launch(kernel: Any, logits: Tensor, labels: Tensor, literal: bool, results: Sequence[Tensor], last: int) -> Any:
    """Calls a native kernel, whose last argument is the number of threads or the stream."""
    logits = logits if logits.stride(2) == 1 else logits.contiguous()
    labels = labels.contiguous()
    code = _native.DTYPE_CODES[str(logits.dtype).removeprefix("torch.")]
    strides = logits.stride()[:2]
    pointers = [t.data_ptr() for t in results]
    return kernel(logits.data_ptr(), code, *logits.shape, *strides, labels.data_ptr(), literal, *pointers, last)


def _triton(logits: Tensor, labels: Tensor, literal: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    from ddfast.ops.crop_score.triton_kernels import crop_score as run

    result: tuple[Tensor, Tensor, Tensor] = run(logits, labels, literal, *_fake(logits, labels))
    return result


for _name, _run in (("cpp", _cpp), ("cuda", _cuda), ("triton", _triton)):
    OP.add_backend(_name, _run, rejects=_rejects)
