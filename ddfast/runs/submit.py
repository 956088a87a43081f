"""Start the same command as many jobs through submitit: a SLURM array, or processes on this machine.

Workers share nothing but the run's folder, so that any of them may start late, be preempted or never start. A job that
SLURM preempts or that reaches its time limit ends its command with SIGTERM and is queued again.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LAUNCHERS = ("slurm", "local")
_GRACE = 30.0  # seconds a command has to give its tasks back
_LOCAL_MINUTES = 60 * 24 * 365  # submitit ends local jobs after minutes otherwise


class RunCommand:
    """What a job does: run a command to its end. Queued again with the same command when it is preempted."""

    def __init__(self, command: Sequence[str]) -> None:
        self.command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """Returns 0.

        Raises:
            RuntimeError: the command failed; its own words are in the job's log.
        """
        self._process = subprocess.Popen(self.command)
        code = self._process.wait()
        if code != 0:
            raise RuntimeError(f"{' '.join(self.command)} ended with code {code}; see the lines above")
        return code

    def checkpoint(self) -> Any:
        """Called by submitit before a preempted job is queued again."""
        import submitit

        self.stop()
        return submitit.helpers.DelayedSubmission(RunCommand(self.command))

    def stop(self) -> None:
        """End the command, which gives its tasks back if it can."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its leases expire


def submit(
    command: Sequence[str],
    workers: int,
    folder: Path,
    *,
    launcher: str = "slurm",
    name: str = "ddfast",
    options: Mapping[str, str | int | float] | None = None,
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
    with executor.batch():
        return [executor.submit(RunCommand(command)) for _ in range(workers)]


def wait(jobs: Sequence[Any]) -> list[str]:
    """Wait until all jobs have ended; the errors of those that failed."""
    failed = []
    for job in jobs:
        if (error := job.exception()) is not None:
            failed.append(f"job {job.job_id}: {error}")
    return failed


def _number(value: str | int | float) -> str | int | float:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value
