"""Retry what failed or was left by dead workers, and clear away what killed processes left behind."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ddfast._temporary import TEMPORARY_PREFIX
from ddfast.runs import description, folder
from ddfast.runs.atomic import RunError, remove_temporaries
from ddfast.runs.failure import drop_failures
from ddfast.runs.lease import CLOCK_SKEW, DEFAULT_EXPIRY, LeaseBook
from ddfast.runs.ledger import Ledger
from ddfast.runs.lookout import Lookout
from ddfast.runs.overview import Overview, TaskView, qualified


@dataclass(frozen=True)
class Cleaned:
    """What `clean` removed: temporaries of killed processes, and state files of tasks that are done."""

    temporaries: int
    state_files: int


def retry(
    root: Path,
    task: str | None = None,
    *,
    verify: bool = False,
    expiry: float = DEFAULT_EXPIRY,
    clock_skew: float = CLOCK_SKEW,
) -> list[str]:
    """Make tasks free for the next worker that comes by, and forget their failures.

    Args:
        root: folder of the run.
        task: this one, whatever became of it, also if it is done: its files are removed, and it will be done anew.
            Named as in an overview, such as ``experts/expert-00003``. None for all that failed or expired.
        verify: also those that are done but whose files are missing or no longer have the size and SHA-256 that were
            recorded; every file is read. Not with ``task``.
        expiry, clock_skew: as of the run's workers.

    Returns:
        The names of the tasks.

    Raises:
        ValueError: ``task`` and ``verify`` together.
        RunError: no such run or task, or a worker is at it.
    """
    if task is not None and verify:
        raise ValueError(
            f"verify: got it with task {task!r}, which is freed whatever its files are; give one of the two"
        )
    overview = Lookout(root, expiry, clock_skew).look()
    known = {
        qualified(ledger.name, view.task): (ledger.name, view) for ledger in overview.ledgers for view in ledger.tasks
    }
    if task is None:
        names = [name for name, (_, view) in known.items() if view.state in ("failed", "expired")]
        names += [name for ledger in overview.ledgers if verify for name in _damaged(root, ledger.name)]
    elif task not in known:
        some = ", ".join(list(known)[:3])
        raise RunError(f"{root}: no task {task!r} among the {len(known)} of this run, which are named like {some}")
    else:
        names = [task]
    for name in names:
        ledger, view = known[name]
        _free(root / ledger, view, expiry, clock_skew)
    return names


def _damaged(root: Path, ledger: str) -> list[str]:
    """Tasks that are done but whose files are not what they were."""
    run = description.read_run(root / ledger)
    one = Ledger(root / ledger, run["tasks"], expiry=DEFAULT_EXPIRY, clock_skew=CLOCK_SKEW)
    return [qualified(ledger, task) for task in one.invalid(checksums=True)]


def _free(root: Path, view: TaskView, expiry: float, clock_skew: float) -> None:
    if view.state == "running":
        raise RunError(f"{root}: {view.owner} is at work on task {view.task}; stop that worker first")
    if view.state == "done":
        run = description.read_run(root)
        Ledger(root, run["tasks"], expiry=expiry, clock_skew=clock_skew).forget(view.task)
        return
    book = LeaseBook(root / folder.TASKS_FOLDER, expiry=expiry, clock_skew=clock_skew)
    last = book.last_generation(view.task)
    drop_failures(book.folder, view.task, last)
    if last >= 0:
        # given back, as its worker would have done; should it be alive after all, its next heartbeat takes it again
        os.utime(book.path(view.task, last), (0, 0), follow_symlinks=False)


def clean(root: Path, *, expiry: float = DEFAULT_EXPIRY, clock_skew: float = CLOCK_SKEW) -> Cleaned:
    """Remove what killed processes left in a run: unfinished files, and leases and failures of tasks that are done.

    Results, checkpoints and everything that a resumed run needs stay.

    Raises:
        RunError: there is no run in the folder, or a worker is at work in it.
    """
    overview = Lookout(root, expiry, clock_skew).look()
    _refuse_running(overview)
    temporaries = 0
    for path, folders, files in os.walk(root):
        if any(name.startswith(TEMPORARY_PREFIX) for name in (*folders, *files)):
            # a worker between two tasks holds none: what it is just writing is left alone
            temporaries += remove_temporaries(path, idle=expiry)
        folders[:] = [name for name in folders if not name.startswith(TEMPORARY_PREFIX)]
    state = sum(_clear_state(root / ledger.name, ledger.tasks) for ledger in overview.ledgers)
    return Cleaned(temporaries, state)


def _refuse_running(overview: Overview) -> None:
    for ledger in overview.ledgers:
        for task in ledger.tasks:
            if task.state == "running":
                raise RunError(
                    f"{overview.root}: {task.owner} is at work on task {qualified(ledger.name, task.task)}; clean when "
                    "no worker runs"
                )


def _clear_state(root: Path, tasks: tuple[TaskView, ...]) -> int:
    """Files removed from ``tasks/``; the whole folder where the run is finished and a killed worker left it."""
    path = root / folder.TASKS_FOLDER
    if not path.is_dir():
        return 0
    if all(task.state == "done" for task in tasks) and (root / folder.RECORDS_FILE).exists():
        count = len(os.listdir(path))
        shutil.rmtree(path)
        return count
    done = {task.task for task in tasks if task.state == "done"}
    left = [name for name in os.listdir(path) if name.partition(".")[0] in done and not name.endswith(".done.json")]
    for name in left:
        (path / name).unlink(missing_ok=True)
    return len(left)
