"""Fast ops of dataset distillation, each usable on its own.

Every op is a pure function on tensors (boxes, indices and other random choices are arguments), registered with
PyTorch's dispatcher as ``torch.ops.ddfast.<name>``.
"""

from __future__ import annotations

from ddfast.ops._registry import BackendError, available_backends, use_backend

__all__ = ["BackendError", "available_backends", "use_backend"]
