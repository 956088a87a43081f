"""Restartable runs: counter-based seeds, the task ledger, worker identity, progress, timings."""

from __future__ import annotations

from ddfast.runs.atomic import RunError, atomic_write_bytes
from ddfast.runs.launch import open_ledger, refuse_occupied
from ddfast.runs.ledger import Ledger, Status
from ddfast.runs.preemption import Preempted, preemptible
from ddfast.runs.progress import Progress, ProgressEvent
from ddfast.runs.task import DoneRecord, Task
from ddfast.runs.timings import TIMINGS_FILE, Timings
from ddfast.runs.worker import Worker, identify_worker

__all__ = [
    "TIMINGS_FILE",
    "DoneRecord",
    "Ledger",
    "Preempted",
    "Progress",
    "ProgressEvent",
    "RunError",
    "Status",
    "Task",
    "Timings",
    "Worker",
    "atomic_write_bytes",
    "identify_worker",
    "open_ledger",
    "preemptible",
    "refuse_occupied",
]
