"""Where the time of a run went: wall and CPU seconds of its parts, over all sittings and all workers of a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddfast._outside import read_json
from ddfast.runs.atomic import atomic_write_bytes
from ddfast.runs.progress import format_seconds

TIMINGS_FILE = "timings.json"
_FORMAT = "ddfast.timings"
_SECONDS = 10.0  # between two writes
_Seconds = dict[tuple[str, str], list[float]]  # by section and part: wall, CPU


class Timings:
    """Seconds by section ("stage 2") and part ("matching"); what an inner part takes is not the outer one's too.

    Example::

        timings = Timings(out / TIMINGS_FILE)
        with timings.section("stage 1"), timings.part("matching"):
            ...
            with timings.part("tests"):
                ...

    Args:
        path: file to keep them in, to which a resumed run and every worker adds its own seconds; None for none. A file
            that cannot be read counts as none: it decides nothing. Of two workers that write in the same moment one
            may lose what it adds.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self._kept = _read(path)
        self._own: _Seconds = {}  # since the file was last written
        self._section = ""
        self._open: list[tuple[str, str]] = []
        self._mark = self._written = _now()

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Parts begun inside belong to it."""
        before, self._section = self._section, name
        try:
            yield
        finally:
            self._section = before

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the time inside, but for that of parts begun inside."""
        self._settle()
        self._open.append((self._section, name))
        try:
            yield
        finally:
            self._settle()
            self._open.pop()
            if not self._open or _now()[0] - self._written[0] > _SECONDS:
                self.keep()

    def add(self, other: Timings, section: str | None = None) -> None:
        """Takes over another run's seconds, such as those of a part made elsewhere.

        Args:
            other: whose.
            section: what they are of here; None for the sections they are of there.
        """
        for (where, part), seconds in other._spent.items():
            _add(self._own, (where if section is None else section, part), seconds)

    def keep(self) -> None:
        """Writes the file, the time of open parts so far included: what a killed run still has."""
        self._settle()
        self._written = _now()
        if self.path is None:
            return
        self._kept = _read(self.path)
        self._kept, self._own = self._spent, {}
        try:
            atomic_write_bytes(self.path, json.dumps(self.as_json(), indent=1).encode())
        except FileNotFoundError:
            return  # another worker, finishing, has swept the folder

    def as_json(self) -> dict[str, Any]:
        """``{"format", "parts": [{"section", "part", "wall", "cpu"}]}``, in the order in which they began."""
        entries = [
            {"section": section, "part": part, "wall": round(wall, 3), "cpu": round(cpu, 3)}
            for (section, part), (wall, cpu) in self._spent.items()
        ]
        return {"format": _FORMAT, "parts": entries}

    def of(self, part: str) -> tuple[float, float]:
        """Wall and CPU seconds of a part in all sections."""
        found = [spent for (_, name), spent in self._spent.items() if name == part]
        return sum(wall for wall, _ in found), sum(cpu for _, cpu in found)

    def lines(self, title: str) -> list[str]:
        """The report as text: the whole with each part's share, and where there are sections a line each."""
        whole = sum(wall for wall, _ in self._spent.values())
        names = sorted({part for _, part in self._spent}, key=lambda part: -self.of(part)[0])
        shares = ", ".join(f"{name} {self.of(name)[0] / max(whole, 1e-9):.0%}" for name in names)
        text = [f"{title}: {format_seconds(whole)} ({shares})"]
        for section in dict.fromkeys(section for section, _ in self._spent if section):
            parts = [(part, wall) for (where, part), (wall, _) in self._spent.items() if where == section]
            text.append(f"  {section}: " + ", ".join(f"{part} {wall:.1f} s" for part, wall in parts))
        return text

    @property
    def _spent(self) -> _Seconds:
        """All there is: what the file held, and what came since."""
        whole = {key: list(seconds) for key, seconds in self._kept.items()}
        for key, seconds in self._own.items():
            _add(whole, key, seconds)
        return whole

    def _settle(self) -> None:
        """Charges the time since the last change to the innermost open part."""
        now = _now()
        if self._open:
            _add(self._own, self._open[-1], [now[place] - self._mark[place] for place in range(2)])
        self._mark = now


def _add(spent: _Seconds, key: tuple[str, str], seconds: Sequence[float]) -> None:
    there = spent.setdefault(key, [0.0, 0.0])
    for place in range(2):
        there[place] += seconds[place]


def _read(path: Path | None) -> _Seconds:
    if path is None or not path.exists():
        return {}
    try:
        content = read_json(path)
        return {
            (entry["section"], entry["part"]): [float(entry["wall"]), float(entry["cpu"])] for entry in content["parts"]
        }
    except (ValueError, KeyError, TypeError, OSError):
        return {}


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()
