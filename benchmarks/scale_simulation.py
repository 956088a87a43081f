"""Discrete simulation of a run by many workers, some of which are lost; says how much of their time is wasted.

    python -m benchmarks.scale_simulation                       # 1,000 workers, ImageNet-21K, 1 % lost an hour
    python -m benchmarks.scale_simulation --workers 100 --seconds 60 --replace-after 300
    python -m benchmarks.scale_simulation --json benchmarks/reproduced/scale-simulation.json    # for docs/scale-out.md

Workers follow the ledger's rules, whose constants are taken from it: each looks at its own share of the tasks first and
then at the others in order; a held task is taken over when the looking worker has seen its heartbeat stand still for
the expiry, by its own clock, or when the heartbeat is older than expiry plus clock skew; a worker that finds nothing
looks again after each poll. On one machine a lost process is seen at once. Workers are lost one by one and silently:
one that is preempted gives its lease back and costs less.

The time paid for (all workers until they are lost or the run is finished) divides into tasks' results, work thrown away
with lost workers, the ledger's own time, and waiting. Waiting has two reasons, told apart by a run of the same tasks
without losses: tasks that do not end together, and leases of lost workers that must expire.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from ddfast.runs.lease import BEATS_PER_EXPIRY, CLOCK_SKEW, DEFAULT_EXPIRY

CLASSES = 21_841
CLAIM_SECONDS = 0.01


@dataclass(frozen=True)
class Scenario:
    """``seconds`` of each task; ``lost_per_hour`` is the share of workers lost within an hour.

    ``deaths`` replaces the drawn times at which workers are first lost; ``replace_after`` seconds a new worker comes
    for a lost one, None for never. ``claim`` seconds go to the ledger for each task. ``per_machine`` workers, one after
    the other, share a machine, where lost ones are replaced; 1 loses the machine too.
    """

    seconds: tuple[float, ...]
    workers: int
    lost_per_hour: float = 0.0
    seed: int = 0
    replace_after: float | None = None
    claim: float = 0.0
    expiry: float = DEFAULT_EXPIRY
    clock_skew: float = CLOCK_SKEW
    poll: float = 1.0
    per_machine: int = 1
    deaths: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """Worker-seconds of a run, and when it was finished."""

    finished: float
    paid: float
    useful: float
    thrown_away: float
    ledger: float
    lost: int
    redone: int

    @property
    def waiting(self) -> float:
        """Worker-seconds without a task."""
        return self.paid - self.useful - self.thrown_away - self.ledger

    @property
    def waste(self) -> float:
        """Share of what was paid for that gave no result."""
        return 1 - self.useful / self.paid


@dataclass
class _Worker:
    index: int
    machine: int
    came: float
    death: float
    beating_since: float = math.inf
    task: int = -1
    claimed: float = 0.0
    next_own: int = 0
    parked: float | None = None  # since when it polls in vain
    seen: dict[tuple[int, float], float] = field(default_factory=dict)


class Simulation:
    """One run; see the module."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        count = len(scenario.seconds)
        self.free, self.left, self.first_free = [True] * count, count, 0
        self.dead: dict[int, tuple[float, int]] = {}  # tasks of lost workers: last heartbeat and machine
        self.events: list[tuple[float, int, str, _Worker]] = []
        self.number = 0
        self.random = np.random.default_rng(scenario.seed)
        self.crew: list[_Worker] = []
        self.thrown_away = self.ledger = 0.0
        self.lost = self.redone = 0

    def run(self) -> Outcome:
        """Until the last task is done.

        Raises:
            RuntimeError: all workers were lost before.
        """
        given = self.scenario.deaths
        for index in range(self.scenario.workers):
            self._hire(index, 0.0, self._lifetime() if given is None else given[index])
        now = 0.0
        while self.left:
            if not self.events:
                raise RuntimeError(f"all {self.scenario.workers} workers were lost with {self.left} tasks to do")
            now, _, kind, worker = heapq.heappop(self.events)
            {"look": self._look, "done": self._done, "death": self._death}[kind](now, worker)
        paid = sum(min(worker.death, self._leaves(worker, now)) - worker.came for worker in self.crew)
        useful = math.fsum(self.scenario.seconds)
        return Outcome(now, paid, useful, self.thrown_away, self.ledger, self.lost, self.redone)

    def _hire(self, index: int, now: float, lifetime: float) -> None:
        machine = index // self.scenario.per_machine
        if now > 0 and self.scenario.per_machine == 1:
            machine = len(self.crew)  # in place of one that was lost with its machine
        worker = _Worker(index, machine, now, now + lifetime, next_own=index)
        self.crew.append(worker)
        self._at(now, "look", worker)
        if math.isfinite(worker.death):
            self._at(worker.death, "death", worker)

    def _lifetime(self) -> float:
        rate = -math.log1p(-self.scenario.lost_per_hour) / 3600
        return float(self.random.exponential(1 / rate)) if rate else math.inf

    def _at(self, when: float, kind: str, worker: _Worker) -> None:
        heapq.heappush(self.events, (when, self.number, kind, worker))
        self.number += 1

    def _look(self, now: float, worker: _Worker) -> None:
        if now >= worker.death or worker.task >= 0:
            return
        task = self._choose(now, worker)
        if task is None:
            if worker.parked is None:
                worker.parked = now
                for other in self.dead:
                    self._look_later(worker, other, now)
            return
        if task in self.dead:
            del self.dead[task]
            self.redone += 1
        self.free[task] = False
        worker.parked, worker.task, worker.claimed = None, task, now
        worker.beating_since = min(worker.beating_since, now)
        end = now + self.scenario.claim + self.scenario.seconds[task]
        if end < worker.death:
            self._at(end, "done", worker)

    def _choose(self, now: float, worker: _Worker) -> int | None:
        """The first claimable task in the worker's order; heartbeats passed on the way are remembered."""
        best = self._next_free(worker)
        for task in sorted(self.dead, key=lambda task: self._place(worker, task)):
            if best is not None and self._place(worker, best) < self._place(worker, task):
                break
            if self._over(worker, task, now):
                return task
        return best

    def _place(self, worker: _Worker, task: int) -> tuple[bool, int]:
        return task % self.scenario.workers != worker.index, task

    def _next_free(self, worker: _Worker) -> int | None:
        count = len(self.free)
        while worker.next_own < count and not self.free[worker.next_own]:
            worker.next_own += self.scenario.workers
        if worker.next_own < count:
            return worker.next_own
        while self.first_free < count and not self.free[self.first_free]:
            self.first_free += 1
        return self.first_free if self.first_free < count else None

    def _over(self, worker: _Worker, task: int, now: float) -> bool:
        """The ledger's rule; see `ddfast.runs.lease`."""
        beat, machine = self.dead[task]
        if worker.machine == machine:
            return True
        first = worker.seen.setdefault((task, beat), now)
        return now - first > self.scenario.expiry or now - beat > self.scenario.expiry + self.scenario.clock_skew

    def _look_later(self, worker: _Worker, task: int, now: float) -> None:
        """When a polling worker will find a lost worker's task over."""
        beat, machine = self.dead[task]
        if worker.machine == machine:
            self._at(self._tick(worker, now), "look", worker)
            return
        first = worker.seen.setdefault((task, beat), self._tick(worker, beat))
        limit = min(first + self.scenario.expiry, beat + self.scenario.expiry + self.scenario.clock_skew)
        self._at(max(self._tick(worker, limit, after=True), now), "look", worker)

    def _tick(self, worker: _Worker, when: float, *, after: bool = False) -> float:
        """The first poll of a parked worker at or, if asked for, after a moment."""
        if worker.parked is None:
            raise RuntimeError(f"worker {worker.index} does not poll")
        polls = max((when - worker.parked) / self.scenario.poll, 0.0)
        return worker.parked + self.scenario.poll * (math.floor(polls) + 1 if after else math.ceil(polls))

    def _done(self, now: float, worker: _Worker) -> None:
        worker.task = -1
        self.left -= 1
        self.ledger += self.scenario.claim
        self._look(now, worker)

    def _death(self, now: float, worker: _Worker) -> None:
        self.lost += 1
        if worker.task >= 0:
            self.thrown_away += now - worker.claimed
            beats = math.floor((now - worker.beating_since) / self.scenario.expiry * BEATS_PER_EXPIRY)
            last = worker.beating_since + beats * self.scenario.expiry / BEATS_PER_EXPIRY
            self.dead[worker.task] = max(worker.claimed, last), worker.machine
            for other in self.crew:
                if other.parked is not None and now < other.death:
                    self._look_later(other, worker.task, now)
        worker.parked = None
        if self.scenario.replace_after is not None:
            self._hire(worker.index, now + self.scenario.replace_after, self._lifetime())

    def _leaves(self, worker: _Worker, end: float) -> float:
        """When a worker notices that the run is finished."""
        return max(end if worker.parked is None else self._tick(worker, end), worker.came)


def tasks(classes: int, seconds: float, spread: float, seed: int) -> tuple[float, ...]:
    """Seconds of each class: log-normal around the mean ``seconds``, ``spread`` the deviation of the logarithm."""
    drawn = np.random.default_rng([seed, 1]).normal(-spread * spread / 2, spread, classes)
    return tuple((seconds * np.exp(drawn)).tolist())


@dataclass(frozen=True)
class Expected:
    """Means over seeds, as shares of what was paid for; ``calm`` is the waste without losses."""

    hours: float
    lost: float
    thrown_away: float
    waiting: float
    ledger: float
    waste: float
    calm: float

    @property
    def by_losses(self) -> float:
        """What losses add to the waste; uneven ends vary, so that it can be below 0 by a little."""
        return self.waste - self.calm


def expected(scenario: Scenario, seeds: Sequence[int]) -> Expected:
    """The same tasks with other workers lost for each seed."""
    calm = Simulation(replace(scenario, lost_per_hour=0.0, deaths=None)).run()
    rows = []
    for seed in seeds:
        run = Simulation(replace(scenario, seed=seed)).run()
        shares = [part / run.paid for part in (run.thrown_away, run.waiting, run.ledger)]
        rows.append([run.finished / 3600, run.lost, *shares, run.waste, calm.waste])
    return Expected(*np.mean(rows, axis=0).tolist())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="expected waste of a run by many workers, some of which are lost")
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--classes", type=int, default=CLASSES, help="tasks (default: ImageNet-21K's classes)")
    parser.add_argument("--seconds", type=float, nargs="+", default=[20.0, 60.0, 180.0, 600.0], help="mean of a task")
    parser.add_argument("--spread", type=float, default=0.25, help="of the logarithm of tasks' seconds")
    parser.add_argument("--per-machine", type=int, nargs="+", default=[1, 8], help="workers that share a machine")
    parser.add_argument("--lost-per-hour", type=float, default=0.01, help="share of workers")
    parser.add_argument("--replace-after", type=float, help="seconds until a lost worker is replaced (default: never)")
    parser.add_argument("--claim", type=float, default=CLAIM_SECONDS, help="the ledger's seconds a task")
    parser.add_argument("--runs", type=int, default=10, help="runs to average")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to write settings and means to")
    given = parser.parse_args(arguments)
    print(
        f"{given.classes} tasks, {given.workers} workers, {given.lost_per_hour:.1%} lost an hour, expiry "
        f"{DEFAULT_EXPIRY:g} s, mean of {given.runs} runs"
    )
    rows = []
    for per_machine in given.per_machine:
        print(f"{per_machine} to a machine")
        for seconds in given.seconds:
            scenario = Scenario(
                tasks(given.classes, seconds, given.spread, given.seed), given.workers, given.lost_per_hour,
                replace_after=given.replace_after, claim=given.claim, per_machine=per_machine,
            )  # fmt: skip
            mean = expected(scenario, range(given.seed, given.seed + given.runs))
            print(_line(seconds, mean))
            shares = {name: round(value, 5) for name, value in asdict(mean).items()}
            rows.append({"per_machine": per_machine, "seconds": seconds, **shares})
    if given.json is not None:
        settings = {name: value for name, value in vars(given).items() if name != "json"}
        document = {"name": "scale-simulation", "expiry": DEFAULT_EXPIRY, "settings": settings, "rows": rows}
        given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _line(seconds: float, mean: Expected) -> str:
    return (
        f"  tasks of {seconds:g} s, {mean.hours:.2f} h, {mean.lost:.1f} workers lost: "
        f"wasted by losses {mean.by_losses:.2%}, in all {mean.waste:.2%} "
        f"(thrown away {mean.thrown_away:.2%}, waiting {mean.waiting:.2%}, ledger {mean.ledger:.2%})"
    )


if __name__ == "__main__":
    main()
