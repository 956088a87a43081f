"""What `ddfast.runs.lookout` sees of a run: its ledgers, their tasks and workers, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ddfast.runs.failure import Failure

STATES = ("done", "running", "expired", "failed", "waiting")


@dataclass(frozen=True)
class TaskView:
    """One task: ``seconds`` it took if done; ``silent`` seconds since its worker was last heard, while one holds it.

    ``gone``: the process that holds it has certainly ended. ``told``: how far it is or was, in its worker's words.
    """

    task: str
    state: str
    owner: str = ""
    seconds: float | None = None
    silent: float | None = None
    failure: Failure | None = None
    gone: bool = False
    told: str = ""


@dataclass(frozen=True)
class LedgerView:
    """One ledger: ``name`` is its folder relative to the run's, "" for the run itself.

    ``rate`` in tasks per second: tasks held now over the mean time of the last finished ones; 0 if unknown. ``eta`` in
    seconds, None if unknown.
    """

    name: str
    method: str
    tasks: tuple[TaskView, ...]
    rate: float = 0.0
    eta: float | None = None

    def count(self, state: str) -> int:
        """Tasks in this state."""
        return sum(task.state == state for task in self.tasks)


@dataclass(frozen=True)
class WorkerView:
    """What one worker, a process, did and does; finished ledgers no longer tell who did what."""

    owner: str
    done: int
    seconds: float
    held: tuple[str, ...]
    silent: float | None


@dataclass(frozen=True)
class Overview:
    """All ledgers of a run, its own first."""

    root: Path
    ledgers: tuple[LedgerView, ...]

    def finished(self) -> bool:
        """True if every task of every ledger is done."""
        return all(task.state == "done" for ledger in self.ledgers for task in ledger.tasks)

    def workers(self) -> tuple[WorkerView, ...]:
        """By process, those that hold tasks first, without those that are seen to have ended with a task in hand."""
        found: dict[str, list[tuple[str, TaskView]]] = {}
        for ledger in self.ledgers:
            for task in ledger.tasks:
                if task.owner:
                    found.setdefault(process(task.owner), []).append((qualified(ledger.name, task.task), task))
        views = [_worker(owner, tasks) for owner, tasks in found.items() if not _ended(tasks)]
        return tuple(sorted(views, key=lambda view: (not view.held, view.owner)))

    def as_json(self) -> dict[str, Any]:
        """JSON values: ``{"run", "finished", "ledgers": [{"name", ..., "tasks": [...]}], "workers": [...]}``."""
        return {
            "run": str(self.root),
            "finished": self.finished(),
            "ledgers": [_ledger_json(ledger) for ledger in self.ledgers],
            "workers": [worker.__dict__ | {"held": list(worker.held)} for worker in self.workers()],
        }


def qualified(ledger: str, task: str) -> str:
    """How a task is called in a run: its ledger's name, a slash and its id."""
    return f"{ledger}/{task}" if ledger else task


def process(owner: str) -> str:
    """``MACHINE:PID`` of an owner ``MACHINE:PID:TOKEN``; a process has a token for each ledger that it opens."""
    return owner.rpartition(":")[0] or owner


def _ended(tasks: list[tuple[str, TaskView]]) -> bool:
    return any(task.gone for _, task in tasks) and not any(task.state == "running" for _, task in tasks)


def _worker(owner: str, tasks: list[tuple[str, TaskView]]) -> WorkerView:
    done = [task.seconds or 0.0 for _, task in tasks if task.state == "done"]
    held = [(name, task) for name, task in tasks if task.state in ("running", "expired") and not task.gone]
    silent = min((task.silent for _, task in held if task.silent is not None), default=None)
    return WorkerView(owner, len(done), round(sum(done), 3), tuple(name for name, _ in held), silent)


def _ledger_json(ledger: LedgerView) -> dict[str, Any]:
    return {
        "name": ledger.name,
        "method": ledger.method,
        "total": len(ledger.tasks),
        **{state: ledger.count(state) for state in STATES},
        "rate": ledger.rate,
        "eta": ledger.eta,
        "tasks": [
            {
                key: task.__dict__[key]
                for key in ("task", "state", "owner", "seconds", "silent", "told")
                if task.__dict__[key] not in (None, "")
            }
            | ({"gone": True} if task.gone else {})
            | ({} if task.failure is None else {"failure": task.failure.__dict__})
            for task in ledger.tasks
        ],
    }
