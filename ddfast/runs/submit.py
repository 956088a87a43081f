"""Start the same command as many jobs through submitit: a SLURM array, or processes on this machine.

Workers share nothing but the run's folder, so that any of them may start late, be preempted or never start. A job that
SLURM preempts or that reaches its time limit ends its command with SIGTERM and is queued again.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfast.runs.jobs import LocalCommand, RunCommand
from ddfast.runs.local_jobs import share_devices, shielded, stop, visible_devices

LAUNCHERS = ("slurm", "local")
_LOCAL_MINUTES = 60 * 24 * 365  # submitit ends local jobs after minutes otherwise


def submit(
    command: Sequence[str],
    workers: int,
    folder: Path,
    *,
    launcher: str = "slurm",
    name: str = "ddfast",
    options: Mapping[str, str | int | float] | None = None,
    own_devices: bool = True,
) -> list[Any]:
    """Submit ``command`` as ``workers`` jobs, on SLURM as one array.

    Args:
        command: program and arguments; it must be able to run beside itself, such as any command with ``--resume``.
        workers: how many.
        folder: for the jobs' logs; not inside the run's folder.
        launcher: "slurm", or "local" for processes on this machine.
        name: of the jobs.
        options: submitit's parameters: ``timeout_min``, ``gpus_per_node``, ``cpus_per_task``, ``mem_gb``,
            ``tasks_per_node``, and SLURM's own with a prefix, such as ``slurm_partition``. Text that is a number counts
            as one.
        own_devices: on this machine each worker sees one of the visible CUDA devices alone, in turns (with the option
            ``gpus_per_node`` as many). Otherwise it sees all of them: the command names one itself.

    Returns:
        submitit's jobs.

    Raises:
        ValueError: no such launcher or option, fewer than one worker, or SLURM is not here.
        ImportError: submitit is not installed.
    """
    if launcher not in LAUNCHERS:
        raise ValueError(f"launcher: got {launcher!r}, expected {' or '.join(LAUNCHERS)}")
    if workers < 1:
        raise ValueError(f"workers: got {workers}, expected 1 or more")
    if launcher == "slurm" and shutil.which("sbatch") is None:
        raise ValueError(
            "launcher: got slurm, but there is no sbatch here; submit on a machine of the cluster, or 'local'"
        )
    try:
        import submitit
    except ImportError:
        raise ImportError("launcher: needs submitit; pip install 'ddfast[slurm]'") from None
    executor = submitit.AutoExecutor(folder=folder, cluster=launcher)
    given = {key: _number(value) for key, value in (options or {}).items()}
    if launcher == "local":
        given.setdefault("timeout_min", _LOCAL_MINUTES)
    else:
        given.setdefault("slurm_array_parallelism", workers)
    try:
        executor.update_parameters(name=name, **given)
    except (NameError, AssertionError) as error:
        raise ValueError(f"launch options: {error}") from None
    if launcher == "local":
        return _start(executor, command, workers, given, own_devices)
    with executor.batch():
        return [executor.submit(RunCommand(command)) for _ in range(workers)]


def _start(executor: Any, command: Sequence[str], workers: int, given: Mapping[str, Any], own: bool) -> list[Any]:
    """Processes on this machine, which are told their devices: submitit would hide all of them."""
    tasks, visible = int(given.get("tasks_per_node", 1)), visible_devices()
    if own:
        devices = share_devices(visible, workers, tasks, int(given.get("gpus_per_node", 1)))
    else:
        devices = share_devices([",".join(visible)] if visible else [], workers, tasks)
    jobs: list[Any] = []
    try:
        with shielded():
            for mine in devices:
                jobs.append(executor.submit(LocalCommand(command, mine)))
    except BaseException:  # Ctrl-C too: those already started are ended, and it goes on at once
        stop(jobs, seconds=0.0)
        raise
    return jobs


def _number(value: str | int | float) -> str | int | float:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
