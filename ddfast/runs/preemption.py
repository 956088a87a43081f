"""Being stopped by a launcher: SIGTERM unwinds the program as Ctrl-C does, so that tasks and checkpoints are kept.

SLURM and torchrun end a process with SIGTERM and kill it some seconds later; `sbatch --signal=USR1@60` and submitit
(SIGUSR2) warn it before. Python's own reaction is to end at once, without ``finally``: leases then have to expire.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGUSR2") if hasattr(signal, name))
SAME_STOP = 5.0  # seconds


class Preempted(BaseException):
    """The process was asked to end. Not an `Exception`: it is no failure of a task, and goes through ``except``.

    Attributes:
        number: of the signal; its name is in the text.
    """

    def __init__(self, number: int) -> None:
        self.number = int(number)
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells count: 143 for SIGTERM."""
        return 128 + self.number


class _Catcher:
    """The handler, and what became of the first signal."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.hook = sys.unraisablehook
        self.first: Preempted | None = None
        self.when = 0.0
        self.again: threading.Timer | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.process:  # a forked child, which has nothing of ours to give back
            _end(number)
        if self.first is None or self.again is not None:
            # the time counts from the first signal: one that a destructor swallowed is raised again, not anew
            if self.first is None:
                self.first, self.when = Preempted(number), time.monotonic()
            self.again = None
            raise self.first
        if time.monotonic() - self.when > SAME_STOP:
            _end(number)

    def unraisable(self, report: Any) -> None:
        """Python drops what is raised in destructors and the like: raise it again, behind them."""
        if self.first is not None and report.exc_value is self.first:
            main, number = threading.main_thread().ident, self.first.number
            # a little later: raised here it would be dropped again
            self.again = threading.Timer(0.01, lambda: signal.pthread_kill(main or 0, number))
            self.again.start()
            return
        self.hook(report)


@contextmanager
def preemptible() -> Iterator[None]:
    """Inside, SIGTERM, SIGUSR1 and SIGUSR2 raise `Preempted` in the main thread, once.

    ``finally`` and ``with`` blocks then save checkpoints and give tasks back. The exception comes after the native call
    that runs just now; sleeping and waiting for locks, files or processes end at once. Launchers signal all processes
    of a job and then each again: more signals within five seconds are taken for the same stop, and a later one ends the
    process at once. Does nothing outside the main thread, and leaves signals alone that somebody handles or ignores
    already. Children that are forked inside end as they would without.

    Raises:
        Preempted: a signal came. Also where another exception leaves the block after it: such as that of a helper
            process which the launcher ended too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    catcher = _Catcher()
    ours = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    sys.unraisablehook = catcher.unraisable
    for number in ours:
        signal.signal(number, catcher)
    try:
        yield
    except Exception as error:
        if catcher.first is None:
            raise
        raise catcher.first from error
    finally:
        if catcher.again is not None:
            catcher.again.cancel()
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
        sys.unraisablehook = catcher.hook


def _end(number: int) -> None:
    """End as if the signal had never been handled."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
