"""Carries a plan out: one ledger, one or several processes."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ddfast._processes import module_command
from ddfast.evaluation.plan import Plan
from ddfast.evaluation.tasks import run_task
from ddfast.evaluation.validation import CACHE_FILE
from ddfast.runs import Ledger, Progress, RunError, Task, Worker, open_ledger
from ddfast.runs.progress import format_seconds
from ddfast.runs.sharing import teller
from ddfast.train import TrainProgress
from ddfast.train.data_parallel import Group

CHECKPOINTS = "checkpoints"
_GRACE = 10.0  # seconds helpers have to end
OUTPUTS = ("report.json", "report.html", "table.md", "teacher-*", f"{CACHE_FILE}*", CHECKPOINTS)


def run_plan(
    plan: Plan,
    out: Path,
    *,
    worker: Worker | None = None,
    resume: bool = False,
    overwrite: bool = False,
    processes: int = 1,
    quiet: bool = False,
    prepare: Callable[[bool], Plan] | None = None,
    group: Group | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Does every task that is not done yet.

    Args:
        plan: the evaluation.
        out: its folder.
        worker: who this is among workers that were started together; None for alone.
        resume, overwrite: as in `ddfast.runs.open_ledger`.
        processes: how many train side by side here; results do not depend on it.
        quiet: no progress.
        prepare: called once the folder is ours, before the first task, with whether there is one left; gives the plan
            with all that its tasks need.
        group: ranks that do every task together; the first keeps the ledger.

    Returns:
        The record of each task by its id.

    Raises:
        NonFiniteLossError: a training diverged; the others' results are kept.
        ddfast.runs.RunError: the folder holds another run, or cannot be written.
    """
    if group is not None and not group.leads:
        return _follow(plan, out, group, prepare)
    specs = {spec.id: spec for spec in plan.specs()}
    ledger = open_ledger(
        out, list(specs), plan.identity(), worker=worker, resume=resume, overwrite=overwrite, outputs=OUTPUTS
    )
    helpers: list[subprocess.Popen[bytes]] = []
    with ledger:
        left = len(specs) - ledger.status().done
        if not left and not quiet:
            print(f"{plan.title}: every task was done already", file=sys.stderr)
        if prepare is not None:
            plan = prepare(left > 0)
        if group is not None:
            group.tell("ready")
        try:
            for _ in range(min(processes, left) - 1):
                helpers.append(_start(plan, out))
            work(plan, ledger, quiet=quiet, group=group)
        finally:
            stop(helpers)
        records: dict[str, Mapping[str, Any]] = {task: done.record for task, done in ledger.records().items()}
        ledger.finish()
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    if group is not None:
        group.tell(records)
    return records


def _follow(
    plan: Plan, out: Path, group: Group, prepare: Callable[[bool], Plan] | None
) -> dict[str, Mapping[str, Any]]:
    """`run_plan` of the other ranks: does with the first what that one says; see `work`."""
    group.tell()  # once the folder is there, with what is made before the first task
    if prepare is not None:
        plan = prepare(False)
    specs = {spec.id: spec for spec in plan.specs()}
    while (task := group.tell()) is not None:
        checkpoint = out / CHECKPOINTS / f"{task}.pt"
        run_task(plan, specs[task], None, checkpoint, lambda _: cast(Any, group.tell()), group)
    return cast(dict[str, Mapping[str, Any]], group.tell())


def work(plan: Plan, ledger: Ledger, *, quiet: bool = True, group: Group | None = None) -> None:
    """Takes task after task until all are done, and tells the ranks of a group which."""
    specs = {spec.id: spec for spec in plan.specs()}
    weights = {spec.id: plan.weight(spec) for spec in specs.values()}
    mode = "quiet" if quiet else "auto"
    begun = _weight_done(ledger, weights)
    with Progress(sum(weights.values()), done=begun, unit=plan.unit, title=plan.title, mode=mode) as progress:
        for task in ledger.claims(poll=0.2, on_wait=teller(quiet)):
            with task:
                spec, before = specs[task.id], _weight_done(ledger, weights)

                def show(state: TrainProgress, task: Task = task, before: int = before) -> None:
                    if state.step == state.steps:
                        if task.lost:
                            raise RunError(
                                f"{ledger.root}: another worker has taken over {task.id}, since this one stood still "
                                "too long; start this worker again"
                            )
                        part = weights[task.id] * state.epoch // (state.epochs + 1)
                        words = f"epoch {state.epoch}/{state.epochs}, loss {state.loss:.3f}"
                        task.tell(f"{words}, {format_seconds(state.eta_seconds)} left")
                        progress.update(max(before + part - progress.done, 0), f"{task.id}: {words}")

                checkpoint = ledger.root / CHECKPOINTS / f"{spec.id}.pt"
                if group is not None:
                    group.tell(task.id)
                task.complete(
                    run_task(plan, spec, show, checkpoint, lambda other: _record(ledger, other, group), group)
                )
            progress.update(max(_weight_done(ledger, weights) - progress.done, 0), task.id)
        progress.update(progress.total - progress.done)
    if group is not None:
        group.tell(None)


def _weight_done(ledger: Ledger, weights: Mapping[str, int]) -> int:
    """Work that is finished, by whomever."""
    return sum(weights[task] for task in ledger.records())


def stop(helpers: list[subprocess.Popen[bytes]]) -> None:
    """Ends helper processes, which give their tasks back; what they had finished is in the ledger."""
    for helper in helpers:
        if helper.poll() is None:
            helper.terminate()
    limit = time.monotonic() + _GRACE
    for helper in helpers:
        try:
            helper.wait(max(limit - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()


def _record(ledger: Ledger, task: str, group: Group | None) -> Mapping[str, Any] | None:
    done = ledger.records().get(task)
    record = None if done is None else done.record
    return record if group is None else cast("Mapping[str, Any] | None", group.tell(record))


def _start(plan: Plan, out: Path) -> subprocess.Popen[bytes]:
    """A second process with the same plan, sent through its standard input."""
    try:
        data = pickle.dumps((plan, str(out)))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ValueError(
            f"processes: the pictures or the teacher cannot be sent ({error}); give processes=1"
        ) from error
    helper = subprocess.Popen(module_command("ddfast.evaluation.helper", str(os.getpid())), stdin=subprocess.PIPE)
    if helper.stdin is not None:
        helper.stdin.write(data)
        helper.stdin.close()
    return helper
