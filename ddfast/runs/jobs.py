"""What a submitted job does: it runs a command to its end, ends it in time, and begins again if it is queued again."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

_GRACE = 30.0  # seconds a command has to give its tasks back


class RunCommand:
    """A job of a cluster. Queued again with the same command when it is preempted."""

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
        again = copy.copy(self)
        again._process = None
        return submitit.helpers.DelayedSubmission(again)

    def stop(self) -> None:
        """End the command, which gives its tasks back if it can."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its leases expire


class LocalCommand(RunCommand):
    """A job on this machine: its result is the command's exit code, and SIGTERM is passed on to the command.

    Args:
        command: program and arguments.
        devices: for each of the job's tasks what CUDA_VISIBLE_DEVICES is to be; none to leave it alone.
    """

    def __init__(self, command: Sequence[str], devices: Sequence[str] = ()) -> None:
        super().__init__(command)
        self.devices = tuple(devices)
        self._stopped = False

    def __call__(self) -> int:
        """Returns the command's exit code, negative for the signal that ended it."""
        signal.signal(signal.SIGTERM, self._end)  # submitit's handler does nothing
        if self._stopped:
            return -signal.SIGTERM
        self._process = subprocess.Popen(self.command, env={**os.environ, **self.environment()})
        if self._stopped:  # meanwhile
            self._process.terminate()
        return self._process.wait()

    def environment(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """What the command's environment has beyond the job's."""
        if not self.devices:
            return {}
        return {"CUDA_VISIBLE_DEVICES": self.devices[int(environ.get("SUBMITIT_LOCAL_LOCALID", "0"))]}

    def _end(self, number: int, frame: FrameType | None) -> None:
        """Passes the first signal on; a command takes one that comes long after for the wish to end at once."""
        if not self._stopped and self._process is not None:
            self._process.terminate()
        self._stopped = True
