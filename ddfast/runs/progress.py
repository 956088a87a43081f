"""Progress with rate and time left: a bar on terminals, a line now and then elsewhere, a callback for programs."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TextIO

from ddfast._printable import printable

_WINDOW = 60.0
_REDRAWN = 1.0  # seconds between two texts behind a bar in a pause
# no time left is told before this share is done and these seconds passed; after the last number it always is
_EARLY_SHARE, _EARLY, _LATE = 0.05, 5.0, 300.0


@dataclass(frozen=True)
class ProgressEvent:
    """How far the work is: ``done`` of ``total``.

    ``rate`` per second (0 if unknown), without the time of pauses; ``eta`` and ``elapsed`` in seconds, ``eta`` None
    while the rate is unknown or has had too little work to go by;
    ``message`` is the last one given to `Progress.update`.
    """

    done: int
    total: int
    rate: float
    eta: float | None
    elapsed: float
    message: str = ""


class Progress:
    """Counts work and shows it.

    Args:
        total: how much work there is in all.
        done: how much was done before, by an earlier run; it counts in the share shown but not in the rate, so the time
            left is right from the start of a resumed run.
        unit: what is counted, in the plural ("images").
        title: what the work is.
        mode: "bar" (tqdm), "lines" (one line at the start if there is a title, and one every ``interval`` seconds),
            "quiet" (nothing), or "auto": bar if ``stream`` is a terminal, else lines.
        stream: where to write; None for standard error.
        interval: seconds between two lines.
        callback: called with a `ProgressEvent` after every update, in every mode.
        clock: seconds, monotonic.

    Raises:
        ValueError: an unknown mode, or not 0 <= done <= total.
    """

    def __init__(
        self,
        total: int,
        *,
        done: int = 0,
        unit: str = "items",
        title: str = "",
        mode: str = "auto",
        stream: TextIO | None = None,
        interval: float = 10.0,
        callback: Callable[[ProgressEvent], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if mode not in ("auto", "bar", "lines", "quiet"):
            raise ValueError(f"mode: got {mode!r}, expected 'auto', 'bar', 'lines' or 'quiet'")
        if not 0 <= done <= total:
            raise ValueError(f"done: got {done} of total {total}, expected 0 <= done <= total")
        self.total = total
        self.done = self._first = done
        self._unit = unit
        self._title = printable(title, lines=False)
        self._stream = target = sys.stderr if stream is None else stream
        self._interval = interval
        self._callback = callback
        self._clock = clock
        self._began = clock()
        self._last_line = self._began
        self._away = 0.0  # seconds of all pauses that are over
        self._since: float | None = None  # when the present pause began
        self._samples: deque[tuple[float, int]] = deque([(self._began, done)])
        self._message = ""
        if mode == "auto":
            mode = "bar" if target is not None and target.isatty() and os.environ.get("TERM") != "dumb" else "lines"
        self._mode = mode = "quiet" if target is None else mode  # a program without standard error
        self._bar = self._make_bar() if mode == "bar" else None
        if mode == "lines" and title and done < total:  # the first of them may take minutes
            print(f"{self._title}: {done}/{total} {unit} done", file=self._stream, flush=True)

    def update(self, count: int = 1, message: str = "") -> None:
        """Add ``count`` to the work done.

        Args:
            count: how much more is done.
            message: a few words on the present state, shown behind the numbers.
        """
        self.done += count
        self._message = message
        now = self._clock()
        self._remember(self._worked(now))
        if self._bar is not None:
            self._bar.set_postfix_str(printable(message, lines=False), refresh=False)
            self._bar.update(count)
        elif self._mode == "lines" and now - self._last_line >= self._interval:
            self._print_line(now)
        if self._callback is not None:
            self._callback(self.event())

    def event(self) -> ProgressEvent:
        """The present state; the rate is the mean over the last minute."""
        now = self._clock()
        worked, (before, count) = self._worked(now), self._samples[0]
        rate = (self.done - count) / (worked - before) if worked > before else 0.0
        left = max(self.total - self.done, 0)
        eta = left / rate if rate > 0 and self._can_tell(worked) else None
        return ProgressEvent(self.done, self.total, rate, 0.0 if left == 0 else eta, now - self._began, self._message)

    def line(self) -> str:
        """The present state in words, without the title."""
        return format_event(self.event(), unit=self._unit)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """For other work within it, such as a test: its time does not count in the rate."""
        self._since = self._last_line = begin = self._clock()
        try:
            yield
        finally:
            passed = self._clock() - begin
            self._away += passed
            self._since = None
            if self._bar is not None:  # tqdm has a clock of its own
                self._bar.start_t += passed
                self._bar.last_print_t += passed

    def tell(self, text: str) -> None:
        """How far that other work is: behind the bar, or a line where the last was ``interval`` seconds ago."""
        now = self._clock()
        if now - self._last_line < (self._interval if self._bar is None else _REDRAWN):
            return
        self._last_line = now
        if self._bar is not None:
            self._bar.set_postfix_str(printable(text, lines=False))
        else:
            self.write(f"{self._title}: {text}" if self._title else text)

    def _worked(self, now: float) -> float:
        """The time without pauses."""
        return (now if self._since is None else self._since) - self._away

    def _can_tell(self, now: float) -> bool:
        """Whether enough is done for a time left; what starts up slowly would make the first ones alarming."""
        passed, share = now - self._began, (self.done - self._first) / max(self.total - self._first, 1)
        return (share >= _EARLY_SHARE and passed >= _EARLY) or passed >= _LATE

    def write(self, text: str) -> None:
        """Print a line without tearing the bar; nothing in quiet mode."""
        if self._bar is not None:
            self._bar.write(printable(text), file=self._stream)
        elif self._mode == "lines":
            print(printable(text), file=self._stream, flush=True)

    def close(self) -> None:
        """Show the last state and stop."""
        if self._bar is not None:
            self._bar.close()
        elif self._mode == "lines":
            self._print_line(self._clock())
        self._mode, self._bar = "quiet", None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remember(self, now: float) -> None:
        self._samples.append((now, self.done))
        while len(self._samples) > 2 and now - self._samples[1][0] >= _WINDOW:
            self._samples.popleft()

    def _make_bar(self) -> Any:
        from tqdm import tqdm  # only where a bar is shown

        return tqdm(
            total=self.total,
            initial=self.done,
            unit=f" {self._unit}",
            desc=self._title or None,
            file=self._stream,
            dynamic_ncols=True,
        )

    def _print_line(self, now: float) -> None:
        self._last_line = now
        line = format_event(self.event(), unit=self._unit, title=self._title)
        print(printable(line, lines=False), file=self._stream, flush=True)


def format_event(event: ProgressEvent, *, unit: str = "items", title: str = "") -> str:
    """One line: ``"title: 120/3000 images (4 %), 25.1 images/s, 1 min 55 s left, message"``."""
    share = f" ({100 * event.done // event.total} %)" if event.total else ""
    parts = [f"{event.done}/{event.total} {unit}{share}"]
    if event.rate > 0:
        parts.append(f"{event.rate:.3g} {unit}/s")
    if event.done < event.total and event.eta is not None:
        parts.append(f"{format_seconds(event.eta)} left")
    else:
        parts.append(f"{format_seconds(event.elapsed)} passed")
    if event.message:
        parts.append(event.message)
    return f"{title}: {', '.join(parts)}" if title else ", ".join(parts)


def format_seconds(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``, ``3 d 04 h``."""
    whole = max(round(seconds), 0)
    for big, small, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if whole >= size:
            return f"{whole // size} {big} {whole % size // part:02d} {small}"
    return f"{whole} s"
