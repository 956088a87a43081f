"""Where the time of a run went, and how far each stage is from what the machine could do."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from ddfast._printable import printable
from ddfast.data import DecodeError, Source, decode_image
from ddfast.methods._options import RunOptions
from ddfast.methods.rded.config import RDEDConfig
from ddfast.nets.forward import PRECISIONS

if TYPE_CHECKING:
    from ddfast.data import CropBatch
    from ddfast.methods.rded.scorer import Scorer
    from ddfast.methods.rded.stages import Chosen
    from ddfast.nets.forward import Forward

T = TypeVar("T")
_PEAK_SIDE = 1536
_DECODED = 8


class Report:
    """Seconds per stage, counts, and the observer's share of the machine's peak."""

    def __init__(self, config: RDEDConfig, options: RunOptions) -> None:
        self.config, self.options = config, options
        self.seconds: dict[str, float] = {}
        self.overlapped: dict[str, float] = {}
        self.began = time.perf_counter()
        self._lock = threading.Lock()
        self.images = self.crops = self.failures = 0
        self.rescored: dict[str, int] = {}
        self.changed = self.widened = 0
        self.todo = 0
        self.info: dict[str, object] = {}
        self.decode_seconds, self.threads, self.worked = 0.0, 1, 0.0
        self.first: Forward | None = None
        self.precision = config.precision
        self.device = options.torch_device()

    @contextmanager
    def stage(self, name: str, *, overlapped: bool = False) -> Iterator[None]:
        """Adds the block's wall time to a stage; ``overlapped`` ones run beside the main thread."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            spent, book = time.perf_counter() - begin, self.overlapped if overlapped else self.seconds
            with self._lock:
                book[name] = book.get(name, 0.0) + spent

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        """Passes items on and counts the time spent waiting for them."""
        iterator = iter(items)
        while True:
            with self.stage(name):
                item = next(iterator, None)
            if item is None:
                return
            yield item

    def classes(self, todo: int, scorer: Scorer) -> None:
        """Notes how many classes are to be done and by which forward."""
        self.todo, self.info, self.first = todo, dict(scorer.first.info), scorer.first
        self.decode_seconds, self.threads = measure_decode(scorer.source), scorer.threads

    def count(self, batch: CropBatch) -> None:
        """Counts a scored batch."""
        self.images += len(batch.positions)
        self.crops += len(batch.crops)
        self.failures += len(batch.failures)

    def selected(self, chosen: Chosen) -> None:
        """Counts what the selection of one class had to score again."""
        for level in chosen.levels[1:]:
            self.rescored[level.name] = self.rescored.get(level.name, 0) + level.scored
        self.changed += chosen.changed
        self.widened += sum(level.widened for level in chosen.levels)

    def lines(self, out: Path, classes: int) -> list[str]:
        """The report as text."""
        wall = time.perf_counter() - self.began
        text = [f"rded: {classes * self.config.ipc} images of {classes} classes in {out} ({wall:.1f} s)"]
        if not self.todo:
            return [*text, "  the run was complete already"]
        rate = self.images / max(self.worked, 1e-9)
        text.append(f"  {self.images} source images, {self.crops} crops scored, {rate:.1f} images/s after set-up")
        text += [f"  {message}" for message in self.first.messages] if self.first else []
        for name, seconds in sorted(self.seconds.items(), key=lambda item: -item[1]):
            text.append(
                f"  {name:20s} {seconds:8.2f} s  {seconds / wall:5.0%} of the wall time{self._limit(name, seconds)}"
            )
        for name, seconds in self.overlapped.items():
            text.append(f"  {name:20s} {seconds:8.2f} s  beside the rest")
        for name, count in self.rescored.items():
            text.append(f"  {count} of {self.crops} crops scored again in {name} ({count / max(self.crops, 1):.1%})")
        text.append(f"  patches that the first scores alone would have placed otherwise: {self.changed}")
        if self.widened:
            text.append(f"  error bound widened {self.widened} times")
        if self.failures:
            text.append(f"  {self.failures} unreadable files skipped (listed in manifest.json)")
        return text

    def show(self, out: Path, classes: int) -> None:
        """Prints the report to standard error."""
        print(printable("\n".join(self.lines(out, classes))), file=sys.stderr)

    def _limit(self, stage: str, seconds: float) -> str:
        if stage == "waiting for crops" and self.decode_seconds:
            least = self.images * self.decode_seconds / max(self.threads, 1)
            return (
                f"; decoding alone takes {1e3 * self.decode_seconds:.2f} ms a picture, {least:.2f} s in all on "
                f"{max(self.threads, 1)} threads, beside the scoring"
            )
        macs = self.info.get("macs_active")
        if stage != "scoring" or not isinstance(macs, int) or not self.crops:
            return ""
        peak = measure_peak(self.precision, self.device)
        limit = 2.0 * macs * self.crops / peak
        if self.device != "cpu":  # the stage only queues work there; the GPU is busy beside all stages
            seconds = self.worked
        return f", {seconds / limit:.1f}x the limit ({limit:.2f} s at {peak / 1e9:.0f} GFLOP/s measured in a matmul)"


def measure_peak(precision: str, device: str) -> float:
    """Floating-point operations per second of a large matrix product in this precision, best of a few."""
    dtype = PRECISIONS[precision]
    side = _PEAK_SIDE if device == "cpu" else 8192  # a small product only measures the launch on a GPU
    a = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(6):
        begin = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # waits for the device
        best = min(best, time.perf_counter() - begin)
    return 2.0 * side**3 / best


def measure_decode(source: Source) -> float:
    """Seconds to decode one picture on one core, the mean over a few; 0 for sources that hold pixels."""
    spent = []
    for label in range(0, len(source.class_names), max(1, len(source.class_names) // _DECODED)):
        if not source.count(label):
            continue
        try:
            data = source.load(label, 0)
            begin = time.perf_counter()
            if isinstance(data, bytes):
                decode_image(data)
                spent.append(time.perf_counter() - begin)
        except (DecodeError, OSError):
            continue  # the run itself reports unreadable files
    return sum(spent) / len(spent) if spent else 0.0
