"""What Python does not say alike on every system."""

from __future__ import annotations

import os


def cores() -> int:
    """Processor cores this process may use: its affinity where the system has one (Linux), else all of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
