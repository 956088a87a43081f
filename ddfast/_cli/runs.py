"""Command lines of runs: what they do (status, retry, clean), and having other processes do them (--launcher)."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ddfast._cli.answer import Answer
from ddfast._cli.parser import command, pair
from ddfast._machine import cores
from ddfast._processes import module_command
from ddfast.runs.preemption import Preempted
from ddfast.runs.submit import LAUNCHERS

_GRACE = 30.0  # seconds local workers have to give their tasks back


def add_status(commands: Any) -> None:
    """``ddfast status``."""
    status = command(
        commands, "status", _status, help="how far a run is, and who works on it; never disturbs it",
        examples=("ddfast status rded_in1k", "ddfast status rded_in1k --watch", "ddfast status rded_in1k --json"),
    )  # fmt: skip
    _add_run(status)
    status.add_argument(
        "--watch",
        action="store_true",
        help="look again and again until the run is finished; with --json one line a look",
    )
    status.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="with --watch (default: 5)")
    status.add_argument("--tasks", action="store_true", help="list every task")


def add_retry(commands: Any) -> None:
    """``ddfast retry``."""
    text = "free tasks that failed or whose worker died, for the run's next worker"
    again = command(
        commands, "retry", _retry, help=text,
        examples=("ddfast retry rded_in1k", "ddfast retry rded_in1k --task class-00007"),
    )  # fmt: skip
    _add_run(again)
    again.add_argument("--task", metavar="NAME", help="this one, even if it is done; a name that status --tasks shows")
    again.add_argument(
        "--verify", action="store_true", help="read finished tasks' files and free those with changed ones"
    )


def add_clean(commands: Any) -> None:
    """``ddfast clean``."""
    text = "remove what killed processes left in a run"
    _add_run(command(commands, "clean", _clean, help=text, examples=("ddfast clean rded_in1k",)))


def _add_run(one: argparse.ArgumentParser) -> None:
    one.add_argument("folder", type=Path, metavar="RUN", help="output folder of a run")


def add_launch(group: Any) -> None:
    """The options of commands that other processes can do."""
    group.add_argument(
        "--launcher", choices=LAUNCHERS, help="submit this command with --resume as an array of SLURM jobs and return, "
        "or start it as processes on this machine and wait (default: run it here)",
    )  # fmt: skip
    group.add_argument("--launch-workers", type=int, default=4, metavar="N", help="jobs (default: %(default)s)")
    group.add_argument(
        "--launch-option", type=pair, action="append", default=[], metavar="KEY=VALUE", help="of the jobs, such as "
        "timeout_min=240, gpus_per_node=1, cpus_per_task=8, mem_gb=32 or slurm_partition=NAME",
    )  # fmt: skip


def launch(arguments: argparse.Namespace, words: Sequence[str], out: Path) -> Answer:
    """Has others do the command ``words``, each with --resume.

    Raises:
        ValueError, ImportError: as `ddfast.runs.submit.submit`, or the run was to be overwritten, or a shard was given.
        RuntimeError: a local worker failed.
    """
    from ddfast.runs.submit import submit

    if getattr(arguments, "overwrite", False):
        raise ValueError("overwrite: not with --launcher, whose workers start at any time; delete the folder first")
    if shard := getattr(arguments, "shard", None):
        raise ValueError(f"shard: got {shard!r} with --launcher, all of whose workers would be this one; leave it out")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launch(own)
    rest = own.parse_known_args(words)[1]
    count, options = arguments.launch_workers, dict(arguments.launch_option)
    rest += ["--resume"] * ("--resume" not in rest)
    if arguments.launcher == "local" and getattr(arguments, "processes", 0) is None:
        each = str(options.get("tasks_per_node", 1))
        rest += _processes(arguments.device, count * int(each) if each.isdigit() else count)
    again = module_command("ddfast", *rest)
    logs = out.with_name(f"{out.name}_jobs")
    named = getattr(arguments, "device", "auto").startswith("cuda:")
    jobs = submit(
        again, count, logs, launcher=arguments.launcher, name=f"ddfast-{words[0]}", options=options,
        own_devices=not named,
    )  # fmt: skip
    first = jobs[0].job_id
    who = f"{len(jobs)} workers, jobs {first} and following" if len(jobs) > 1 else f"1 worker, job {first}"
    text = f"{who}; logs in {logs}; see: ddfast status {shlex.quote(str(out))} --watch"
    document = {"out": str(out), "logs": str(logs), "jobs": [str(job.job_id) for job in jobs]}
    if arguments.launcher != "local":
        return Answer(text, document)
    print(text, flush=True)  # before they are waited for
    _wait(jobs)
    return Answer("", document)


def _processes(device: str, workers: int) -> list[str]:
    """The option by which several workers on this machine share its cores; each would start a process a core."""
    from ddfast.runs.device import torch_device

    if workers == 1:
        return []
    share = cores() // workers if torch_device(device) == "cpu" else 1
    return ["--processes", str(max(1, share))]


def _wait(jobs: Sequence[Any]) -> None:
    """Until all local workers have ended; a signal to this process ends them too."""
    from ddfast.runs.local_jobs import stop, wait

    try:
        failed = wait(jobs)
    except (KeyboardInterrupt, Preempted):
        print(f"\nstopping {len(jobs)} workers, which give their tasks back", file=sys.stderr, flush=True)
        if left := stop(jobs, _GRACE):
            print(f"{left} of them end later, when what they are at is done", file=sys.stderr)
        raise
    if failed:
        raise RuntimeError("\n".join(failed))


def _status(arguments: argparse.Namespace) -> Answer | None:
    from ddfast.runs.lookout import Lookout
    from ddfast.runs.show import as_line, describe_overview, watch

    lookout = Lookout(arguments.folder)
    show = partial(describe_overview, tasks=arguments.tasks)
    if arguments.watch:
        watch(
            lookout, as_line if arguments.json else show, seconds=arguments.every,
            stream=arguments.stdout, clear=not arguments.json,
        )  # fmt: skip
        return None
    overview = lookout.look()
    return Answer(show(overview), overview.as_json())


def _retry(arguments: argparse.Namespace) -> Answer:
    from ddfast.runs.upkeep import retry

    names = retry(arguments.folder, arguments.task, verify=arguments.verify)
    hint = "; start the run again with --resume, unless its workers are still at it" if names else ""
    lines = [f"{len(names)} {'task' if len(names) == 1 else 'tasks'} freed{hint}", *(f"  {name}" for name in names)]
    return Answer("\n".join(lines), {"freed": list(names)})


def _clean(arguments: argparse.Namespace) -> Answer:
    from ddfast.runs.upkeep import clean

    cleaned = clean(arguments.folder)
    return Answer(
        f"removed {cleaned.temporaries} unfinished files that had not changed for minutes and "
        f"{cleaned.state_files} state files of finished tasks"
        if cleaned.temporaries or cleaned.state_files
        else "nothing to remove",
        {"temporaries": cleaned.temporaries, "state_files": cleaned.state_files},
    )
