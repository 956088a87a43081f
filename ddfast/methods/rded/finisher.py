"""The end of each class, beside the scoring of the next: selection, mosaics, files."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType

from ddfast import _machine
from ddfast.data import Source, Stream
from ddfast.data.ring import make_executor
from ddfast.methods.rded import output, stages
from ddfast.methods.rded.config import RDEDConfig
from ddfast.methods.rded.report import Report
from ddfast.methods.rded.scorer import Scorer
from ddfast.runs import Task

_CORES_A_WRITER = 4
_SELECTING = 1  # classes that wait for their selection while the next one is scored


def select_beside(device: str) -> bool:
    """Whether selection gets a thread of its own: not where it would take the cores from scoring."""
    return device != "cpu"


class Finisher:
    """Selects the patches of scored classes and writes their mosaics.

    On a GPU a thread selects while the GPU scores the next class.  On a CPU both want the same cores, so selection
    happens at once in the calling thread.  Classes are selected in the order they come in; writers work side by side.
    """

    def __init__(self, source: Source, stream: Stream, scorer: Scorer, config: RDEDConfig, report: Report) -> None:
        self.source, self.stream, self.scorer = source, stream, scorer
        self.config, self.report = config, report
        writers = max(1, min(4, _machine.cores() // _CORES_A_WRITER))
        self._beside = select_beside(scorer.device)
        self._selector = make_executor(int(self._beside))
        self._writers = ThreadPoolExecutor(writers, "ddfast-write")
        self._at_once = 2 * writers
        self._selecting: deque[Future[None]] = deque()
        self._writing: deque[Future[None]] = deque()

    def __enter__(self) -> Finisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._selector.shutdown(wait=True, cancel_futures=True)
        self._writers.shutdown(wait=True)  # what was selected is kept, also when the run is interrupted

    def add(self, scores: stages.ClassScores, task: Task) -> None:
        """Takes over a scored class and its task; waits while too many are unfinished."""
        with self.report.stage("waiting for selection" if self._beside else "selection"):
            self._wait(self._selecting, _SELECTING)
            self._selecting.append(self._selector.submit(self._select, scores, task))

    def drain(self) -> None:
        """Waits for all classes; an error of any is raised here."""
        with self.report.stage("waiting for writes"):
            self._wait(self._selecting, 0)
            self._wait(self._writing, 0)

    def _select(self, scores: stages.ClassScores, task: Task) -> None:
        with self.report.stage("selection", overlapped=True) if self._beside else nullcontext():
            chosen = stages.choose(scores, self.scorer, self.source, self.config)
        self.report.selected(chosen)
        self._wait(self._writing, self._at_once - 1)
        self._writing.append(self._writers.submit(self._write, chosen, task))

    @staticmethod
    def _wait(futures: deque[Future[None]], left: int) -> None:
        """Waits until at most ``left`` are unfinished, oldest first; any failure so far is raised."""
        for future in futures:
            if future.done():
                future.result()
        while len(futures) > left:
            futures.popleft().result()

    def _write(self, chosen: stages.Chosen, task: Task) -> None:
        with self.report.stage("mosaics and files", overlapped=True), task:
            mosaics = stages.stitch(chosen, self.source, self.stream, self.config, self.scorer.observer.normalization)
            files = output.class_files(chosen.label, mosaics, self.config)
            for name, data in files.items():
                task.write_bytes(name, data)
            task.complete(output.class_record(chosen, files, self.source, self.config))
