"""Who this process is among the workers of a run, whatever started it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Worker:
    """One worker of a run.

    ``index`` of ``count`` over all machines; ``local_index`` on this machine, which picks the GPU; ``launcher`` is
    "shard", "torchrun", "slurm" or "alone". Tasks are claimed from the ledger, so index and count only spread the
    workers over them: a wrong count costs nothing but a few lost races. ``restarted`` says that the launcher has
    started this worker before (torchrun's --max-restarts, a requeued SLURM job): the run it left is to be continued.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    launcher: str = "alone"
    restarted: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"index: got {self.index} of {self.count} workers, expected 0 <= index < count")

    def continues(self, resume: bool) -> bool:
        """Whether a run may be there already: asked for, made by worker 0 of this launch, or left by a restart."""
        return resume or self.index > 0 or self.restarted


def identify_worker(shard: str | None = None, environ: Mapping[str, str] | None = None) -> Worker:
    """Find out which worker this is.

    The first that applies: ``shard``; torchrun's RANK and WORLD_SIZE; SLURM's SLURM_PROCID and SLURM_NTASKS, times
    SLURM_ARRAY_TASK_ID of a job array; alone. Workers of a ``shard`` take local GPUs by LOCAL_RANK, or else by i.

    Args:
        shard: ``"i/n"``, worker i of n counted from 0, or None.
        environ: environment variables; None for the process's own.

    Raises:
        ValueError: ``shard`` or a variable is malformed, or an index is not below its count.
    """
    env = os.environ if environ is None else environ
    if shard is not None:
        index, count = parse_shard(shard)
        return Worker(index, count, _number(env, "LOCAL_RANK", index), "shard")
    if "RANK" in env and "WORLD_SIZE" in env:
        index, count, local = _number(env, "RANK", 0), _number(env, "WORLD_SIZE", 1), _number(env, "LOCAL_RANK", 0)
        return Worker(index, count, local, "torchrun", _number(env, "TORCHELASTIC_RESTART_COUNT", 0) > 0)
    index, count = _number(env, "SLURM_PROCID", 0), _number(env, "SLURM_NTASKS", 1)
    local, again = _number(env, "SLURM_LOCALID", 0), _number(env, "SLURM_RESTART_COUNT", 0) > 0
    if "SLURM_ARRAY_TASK_ID" in env:
        first, step = _number(env, "SLURM_ARRAY_TASK_MIN", 0), _number(env, "SLURM_ARRAY_TASK_STEP", 1)
        place = (_number(env, "SLURM_ARRAY_TASK_ID", 0) - first) // max(step, 1)
        # arrays like 1,7,9 have gaps: their places may exceed the count
        places = max(_number(env, "SLURM_ARRAY_TASK_COUNT", 1), place + 1)
        return Worker(place * count + index, places * count, local, "slurm", again)
    if "SLURM_PROCID" in env:
        return Worker(index, max(count, index + 1), local, "slurm", again)
    return Worker()


def parse_shard(text: str) -> tuple[int, int]:
    """``"i/n"`` as (i, n), counted from 0.

    Raises:
        ValueError: not of this form, or not 0 <= i < n.
    """
    match = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
    if match is None:
        raise ValueError(f"shard: got {text!r}, expected i/n such as 0/4 (worker 0 of 4, counted from 0)")
    index, count = int(match[1]), int(match[2])
    if index >= count:
        raise ValueError(
            f"shard: got {text!r}, expected i below n; workers count from 0, so the last is {count - 1}/{count}"
        )
    return index, count


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if text == "":
        return default
    if not text.isdecimal():
        raise ValueError(f"{name}: got {text!r} in the environment, expected a whole number")
    return int(text)
