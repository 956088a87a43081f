"""Pytest plugin: the fixture ``case`` that times one callable, checks it, and keeps a record; ``--bench-out DIR``.

    def test_softmax(case):
        case(run, labels=Labels(...), work=Work(...), check=lambda out: Check("max abs", error(out), 1e-6))

pytest-benchmark runs the rounds. Its timer is replaced by one that also reads the CPU clock of the process and of
children it has waited for, so each round has wall and CPU seconds. A case whose check fails gives no record.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import records
from benchmarks.records import Labels, Record, Timing
from ddfast.bench import device_timing
from ddfast.bench.ceilings import as_dict, measure
from ddfast.bench.floor import Work, floor_of
from ddfast.bench.measured import Check, Ratio, Spread

SIZES = ("smoke", "medium", "full")
# Seconds of timed rounds a case may take, and bounds on the number of rounds.
BUDGET = {"smoke": 0.2, "medium": 1.5, "full": 4.0}
FEWEST = {"smoke": 2, "medium": 5, "full": 7}
MOST = {"smoke": 5, "medium": 30, "full": 100}
ROUND_SECONDS = 2e-3  # shorter calls are repeated within a round
_KEY = pytest.StashKey["Session"]()


class Clock:
    """perf_counter that also notes CPU seconds at each reading; pytest-benchmark reads it around every round."""

    def __init__(self) -> None:
        self.marks: list[float] = []

    def __call__(self) -> float:
        self.marks.append(cpu_clock())
        return time.perf_counter()

    def last_rounds(self, rounds: int) -> list[float]:
        """CPU seconds of the last rounds, two readings each."""
        marks = self.marks[-2 * rounds :]
        return [end - start for start, end in zip(marks[::2], marks[1::2], strict=True)]


def cpu_clock() -> float:
    """CPU seconds of all threads of this process and of the children it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


_clock = Clock()


class Session:
    """Records of the run by suite, and the ceilings, measured when they are first needed."""

    def __init__(self, size: str, out: Path | None) -> None:
        self.size, self.out = size, out
        self.records: dict[str, list[Record]] = {}
        self.lines: list[str] = []
        self._ceilings: dict[str, Any] | None = None

    def ceilings(self) -> dict[str, Any] | None:
        """Measured once, for runs that write results or are full."""
        if self._ceilings is None and (self.out or self.size == "full"):
            self._ceilings = as_dict(measure(_decode_sample()))
        return self._ceilings

    def summary(self) -> list[str]:
        """The records, those of a group together, then further lines."""
        groups: dict[str, list[str]] = {}
        for record in (record for found in self.records.values() for record in found):
            head = f"{record.labels.group}, {record.labels.shape}:"
            groups.setdefault(record.labels.group, [head]).append("  " + record.line())
        return [line for lines in groups.values() for line in lines] + self.lines

    def write(self) -> list[Path]:
        """One file a suite."""
        if self.out is None:
            return []
        return [
            records.write(records.document(suite, self.size, found, self._ceilings), self.out)
            for suite, found in self.records.items()
        ]


class Case:
    """The callable behind the fixture."""

    def __init__(self, benchmark: Any, session: Session, suite: str) -> None:
        self._benchmark, self._session, self._suite = benchmark, session, suite

    def __call__(
        self,
        run: Callable[..., Any],
        *,
        labels: Labels,
        work: Work,
        check: Callable[..., Check],
        inputs: Sequence[tuple[Any, ...]] = ((),),
        ddfast: Callable[[], Any] | None = None,
        rounds: int | None = None,
        warmup: bool = True,
        notes: Callable[[], dict[str, Any]] = dict,
    ) -> Record | None:
        """Time ``run(*inputs[k])``, k in turn, and record it if ``check(output, *inputs[k])`` of the last call passes.

        Args:
            run: does the job once and returns its result; on CUDA (``labels.device``) it need not synchronise.
            labels: group, name, shape, baseline ...
            work: items, bytes and flops of the job.
            check: correctness of a result.
            inputs: argument tuples.
            ddfast: for baselines, ddfast's way to do the same: both are then run in turns for the ratio.
            rounds: fixed number of rounds instead of as many as fit in the time for a case.
            warmup: one call before the timed ones, which also tells how many fit.
            notes: called after the rounds; more to keep in the record.

        Returns:
            The record; None when pytest-benchmark is switched off (the check still runs).
        """
        self._session.ceilings()  # before anything is timed, so that they do not disturb
        turn = _Turn(run, inputs, labels.device == "cuda")
        once = _seconds_of(turn) if warmup and self._benchmark.enabled else 0.0
        count, iterations = (rounds, 1) if rounds else _plan(once, self._session.size)
        self._benchmark.group = labels.group
        self._benchmark.pedantic(turn, rounds=count, iterations=iterations)
        result = check(turn.output, *turn.arguments)
        if not result.passed:
            pytest.fail(f"{labels.name}: {result.check} {result.error:.3g}, allowed {result.bound:.3g}; not reported")
        if not self._benchmark.enabled:
            return None
        timing = self._timing(run, inputs, labels, count, iterations)
        turns = _in_turns_cuda if labels.device == "cuda" else _in_turns
        ratio = turns(turn, ddfast, self._session.size) if ddfast else None
        ceilings = self._session.ceilings()
        floor = floor_of(work, ceilings, labels.device) if ceilings else None
        record = Record(labels, timing, work, result, floor, ratio, notes())
        self._keep(record)
        return record

    def _timing(
        self, run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], labels: Labels, count: int, iterations: int
    ) -> Timing:
        cpu = Spread.of([seconds / iterations for seconds in _clock.last_rounds(count)])
        wall = Spread.of(self._benchmark.stats.stats.data)
        device = None
        if labels.device == "cuda":
            device = Spread.of(device_timing.round_seconds(run, inputs, rounds=max(count, FEWEST["medium"])))
        return Timing(count, iterations, wall, cpu, device)

    def _keep(self, record: Record) -> None:
        self._session.records.setdefault(self._suite, []).append(record)
        self._benchmark.extra_info.update(record.as_dict())


class _Turn:
    """Calls with the next input set and keeps arguments and output."""

    def __init__(self, run: Callable[..., Any], inputs: Sequence[tuple[Any, ...]], cuda: bool) -> None:
        self._run, self._inputs, self._cuda, self._count = run, inputs, cuda, 0
        self.arguments: tuple[Any, ...] = ()
        self.output: Any = None

    def __call__(self) -> None:
        self.arguments = self._inputs[self._count % len(self._inputs)]
        self._count += 1
        self.output = self._run(*self.arguments)
        if self._cuda:
            torch.cuda.synchronize()


def _seconds_of(run: Callable[[], Any]) -> float:
    """Of the fastest of a few calls; the first one compiles, allocates and faults pages in, and long ones run once."""
    begin, best = time.perf_counter(), float("inf")
    for number in range(6):
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        if number or now - start > 1:
            best = min(best, now - start)
        if best < float("inf") and now - begin > 0.1:
            break
    return best


def _plan(once: float, size: str) -> tuple[int, int]:
    """Rounds and calls a round for a call of ``once`` seconds."""
    iterations = max(1, min(1000, round(ROUND_SECONDS / max(once, 1e-7))))
    rounds = round(BUDGET[size] / max(once * iterations, 1e-7))
    return max(FEWEST[size], min(MOST[size], rounds)), iterations


def _in_turns(baseline: Callable[[], Any], ddfast: Callable[[], Any], size: str) -> Ratio:
    """CPU seconds of the two side by side, because the clock of shared machines drifts between tests."""
    once = _seconds_of(ddfast)
    inner = max(1, min(1000, round(ROUND_SECONDS / max(once, 1e-7))))
    both = _seconds_of(baseline) + once * inner
    count = max(FEWEST[size], min(MOST[size], round(BUDGET[size] / max(both, 1e-7))))
    ratios = []
    for _ in range(count):
        start = cpu_clock()
        for _ in range(inner):
            ddfast()
        middle = cpu_clock()
        repeats = 0
        while repeats == 0 or cpu_clock() - middle < ROUND_SECONDS:
            baseline()
            repeats += 1
        ratios.append((cpu_clock() - middle) / repeats / ((middle - start) / inner))
    return Ratio.of(ratios)


def _in_turns_cuda(baseline: Callable[[], Any], ddfast: Callable[[], Any], size: str) -> Ratio:
    """The same by the device's own clock."""
    pairs = device_timing.round_seconds(lambda run: run(), [(ddfast,), (baseline,)], rounds=2 * FEWEST[size])
    return Ratio.of([theirs / ours for ours, theirs in zip(pairs[::2], pairs[1::2], strict=True)])


def _decode_sample() -> Path | None:
    data = Path(os.environ.get("DDFAST_TEST_DATA", records.RESULTS.parents[1].parent / "shared" / "data"))
    folder = data / "imagenet20" / "train"
    return folder if folder.is_dir() else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-size",
        choices=SIZES,
        default=os.environ.get("DDFAST_BENCH_SIZE", "smoke"),
        help="how much to run (default: smoke, or DDFAST_BENCH_SIZE)",
    )
    parser.addoption("--bench-out", type=Path, help="write <DIR>/<machine>/<suite>.json")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_KEY] = Session(config.getoption("--bench-size"), config.getoption("--bench-out"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "case" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.benchmark(timer=_clock))


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash[_KEY]
    for path in found.write():
        found.lines.append(f"wrote {path}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash[_KEY].summary():
        terminalreporter.section("measured, against the limit and the baselines")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture
def case(benchmark: Any, request: pytest.FixtureRequest) -> Case:
    """Times, checks and records one callable; see :class:`Case`."""
    return Case(benchmark, request.config.stash[_KEY], request.path.stem.removeprefix("bench_"))


@pytest.fixture(scope="session")
def bench_size(request: pytest.FixtureRequest) -> str:
    """``smoke``, ``medium`` or ``full``."""
    return str(request.config.getoption("--bench-size"))


@pytest.fixture
def one_thread() -> Any:
    """Torch on one thread during the test."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def report_line(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a further line for the summary at the end."""
    return request.config.stash[_KEY].lines.append
