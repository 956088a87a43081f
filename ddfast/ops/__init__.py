"""Fast ops of dataset distillation, each usable on its own.

Every op is a pure function on tensors (boxes, indices and other random choices are arguments), registered with
PyTorch's dispatcher as ``torch.ops.ddfast.<name>``.
"""

from __future__ import annotations

from ddfast.ops._registry import BackendError, available_backends, use_backend
from ddfast.ops.augment_batch import augment_batch
from ddfast.ops.class_topk import EMPTY_KEY, class_topk, empty_topk
from ddfast.ops.conv3x3 import conv3x3
from ddfast.ops.crop_score import crop_score
from ddfast.ops.dsa import dsa, dsa_adjoint
from ddfast.ops.mmd import MMD_BANDWIDTHS, mmd, mmd_median
from ddfast.ops.mosaic import mosaic
from ddfast.ops.multi_crop import multi_crop
from ddfast.ops.plane_block import plane_block
from ddfast.ops.soft_label_loss import soft_label_loss

__all__ = [
    "EMPTY_KEY",
    "MMD_BANDWIDTHS",
    "BackendError",
    "augment_batch",
    "available_backends",
    "class_topk",
    "conv3x3",
    "crop_score",
    "dsa",
    "dsa_adjoint",
    "empty_topk",
    "mmd",
    "mmd_median",
    "mosaic",
    "multi_crop",
    "plane_block",
    "soft_label_loss",
    "use_backend",
]
