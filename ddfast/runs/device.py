"""Which device a worker computes on."""

from __future__ import annotations

from ddfast.runs.worker import Worker


def torch_device(device: str, worker: Worker | None = None) -> str:
    """``device`` with ``auto`` resolved: CUDA when there is a device.

    Of several workers on a machine each gets the GPU of its local index, unless ``device`` names one.

    Args:
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        worker: who this is; None for alone.

    Raises:
        ValueError: none of these, or a CUDA device that PyTorch does not see.
    """
    import torch

    found = torch.cuda.device_count()
    if device in ("auto", "cuda") and found and worker is not None and worker.count > 1:
        return f"cuda:{worker.local_index % found}"
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device != "cpu" and not device.startswith("cuda"):
        raise ValueError(f"device: got {device!r}, expected auto, cpu, cuda or cuda:N")
    if device != "cpu" and not torch.cuda.is_available():
        raise ValueError(f"device: got {device!r}, but PyTorch sees no CUDA device here; give cpu or auto")
    return device
