"""An overview of a run as text, once or again and again until the run is finished."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TextIO

from ddfast.runs.lookout import Lookout
from ddfast.runs.overview import STATES, LedgerView, Overview, TaskView, WorkerView, process, qualified
from ddfast.runs.progress import format_seconds

_LISTED = 10  # workers, failures and expired tasks named in the short form
_DAY = 86400


def describe_overview(overview: Overview, *, tasks: bool = False) -> str:
    """The text of ``ddfast status``: a line a ledger, the workers, how far long tasks are, what failed or expired; on
    wish every task."""
    lines = [_ledger_line(overview, ledger) for ledger in overview.ledgers]
    workers = overview.workers()
    if workers:
        lines += ["workers:", *_some(_worker_line(worker) for worker in workers)]
    told = [(ledger.name, task) for ledger in overview.ledgers for task in ledger.tasks if task.told]
    told.sort(key=lambda one: STATES.index(one[1].state))  # those at work first
    if told:
        lines += [
            "how far:",
            *_some(f"  {qualified(name, task.task)}, {task.state}: {task.told}" for name, task in told),
        ]
    for state in ("expired", "failed"):
        found = [(ledger.name, task) for ledger in overview.ledgers for task in ledger.tasks if task.state == state]
        if found:
            lines += [f"{state}:", *_some(f"  {qualified(name, task.task)}: {_trouble(task)}" for name, task in found)]
    if tasks:
        lines += ["tasks:", *_every_task(overview)]
    return "\n".join(lines)


def as_line(overview: Overview) -> str:
    """The overview as one line of JSON; see `Overview.as_json`."""
    return json.dumps(overview.as_json())


def watch(
    lookout: Lookout,
    show: Callable[[Overview], str] = describe_overview,
    *,
    seconds: float = 5.0,
    stream: TextIO | None = None,
    clear: bool = True,
) -> None:
    """Print the overview every ``seconds`` until every task is done.

    Args:
        lookout: looks at the run.
        show: the text of what it sees.
        seconds: between two looks.
        stream: where to write; None for standard output.
        clear: whether a terminal is cleared in between (one that can be: not with TERM=dumb).

    Raises:
        ValueError: ``seconds`` is not above 0, or more than a day.
        RunError: as `Lookout.look`.
    """
    if not 0 < seconds <= _DAY:
        raise ValueError(f"seconds: got {seconds!r}, expected a number above 0 and up to {_DAY} (a day)")
    out = sys.stdout if stream is None else stream
    before = "\x1b[2J\x1b[H" if clear and out.isatty() and os.environ.get("TERM") != "dumb" else ""
    while True:
        overview = lookout.look()
        print(before + show(overview), file=out, flush=True)
        if overview.finished():
            return
        time.sleep(seconds)


def _ledger_line(overview: Overview, ledger: LedgerView) -> str:
    counts = Counter(task.state for task in ledger.tasks)
    total = len(ledger.tasks)
    title = ledger.name or " ".join(filter(None, (ledger.method, str(overview.root))))
    share = f" ({100 * counts['done'] // total} %)" if total else ""
    parts = [f"{counts['done']}/{total} tasks done{share}"]
    parts += [f"{counts[state]} {state}" for state in STATES[1:] if counts[state]]
    if ledger.rate > 0 and ledger.eta is not None:
        pace = f"{ledger.rate:.3g} tasks/s" if ledger.rate >= 1 else f"{format_seconds(1 / ledger.rate)} a task"
        parts += [pace, f"{format_seconds(ledger.eta)} left"]
    elif counts["done"] < total and not counts["running"]:
        parts.append(_elsewhere(overview, ledger) or "nobody works on it")
    return f"{title}: {', '.join(parts)}"


def _elsewhere(overview: Overview, ledger: LedgerView) -> str:
    """Where the workers are that a ledger waits for: in those inside it; "" if there are none."""
    prefix = f"{ledger.name}/" if ledger.name else ""
    inside = [each for each in overview.ledgers if each is not ledger and each.name.startswith(prefix)]
    busy = [each.name.removeprefix(prefix) for each in inside if each.count("running")]
    return f"workers are at {_first(busy)}" if busy else ""


def _trouble(task: TaskView) -> str:
    if task.failure is not None:
        return task.failure.error
    return f"{process(task.owner)}, " + (
        "its process is gone" if task.gone else f"last heard {format_seconds(task.silent or 0)} ago"
    )


def _worker_line(worker: WorkerView) -> str:
    parts = [f"{worker.done} done"]
    if worker.done:
        parts.append(f"{worker.seconds / worker.done:.3g} s each")
    if worker.held:
        parts.append(f"holds {_first(worker.held)}")
        if worker.silent:
            parts.append(f"last heard {format_seconds(worker.silent)} ago")
    return f"  {worker.owner}: {', '.join(parts)}"


def _every_task(overview: Overview) -> Iterator[str]:
    for ledger in overview.ledgers:
        for task in ledger.tasks:
            took = "" if task.seconds is None else f" {task.seconds:.3g} s"
            yield f"  {qualified(ledger.name, task.task)} {task.state}{took}{task.owner and f' {task.owner}'}"


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)


def _some(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = [f"  ... and {len(found) - _LISTED} more (all with --json)"] if len(found) > _LISTED else []
    return found[:_LISTED] + more
