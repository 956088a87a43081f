"""Command lines of runs: what they do (status, retry, clean), and having other processes do them (--launcher)."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ddfast.runs.submit import LAUNCHERS

NAMES = ("status", "retry", "clean")


def add_runs(commands: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands on runs; ``command(commands, name, function, help=...)`` makes the parser of one."""
    status = command(commands, "status", _status, help="how far a run is, and who works on it; never disturbs it")
    status.add_argument("--watch", action="store_true", help="look again and again until the run is finished")
    status.add_argument("--every", type=float, default=5.0, metavar="SECONDS", help="with --watch (default: 5)")
    status.add_argument("--tasks", action="store_true", help="list every task")
    status.add_argument("--json", action="store_true", help="machine-readable, with every task")
    text = "free tasks that failed or whose worker died, for the run's next worker"
    again = command(commands, "retry", _retry, help=text)
    again.add_argument("--task", metavar="NAME", help="this one, even if it is done; a name that status --tasks shows")
    again.add_argument("--verify", action="store_true", help="also free finished tasks whose files were changed")
    clean = command(commands, "clean", _clean, help="remove what killed processes left in a run")
    for one in (status, again, clean):
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


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` of an option, dashes in the key as underscores."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE")
    return name.replace("-", "_"), value


def launch(arguments: argparse.Namespace, words: Sequence[str], out: Path) -> int:
    """Has others do the command ``words``, each with --resume.

    Raises:
        ValueError, ImportError: as `ddfast.runs.submit.submit`, or the run was to be overwritten.
        RuntimeError: a local worker failed.
    """
    from ddfast.runs.submit import submit, wait

    if getattr(arguments, "overwrite", False):
        raise ValueError("overwrite: not with --launcher, whose workers start at any time; delete the folder first")
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_launch(own)
    rest = own.parse_known_args(words)[1]
    command = [sys.executable, "-m", "ddfast", *rest, *["--resume"] * ("--resume" not in rest)]
    logs = out.with_name(f"{out.name}_jobs")
    count, options = arguments.launch_workers, dict(arguments.launch_option)
    jobs = submit(command, count, logs, launcher=arguments.launcher, name=f"ddfast-{words[0]}", options=options)
    print(f"{len(jobs)} workers, job {jobs[0].job_id} and following; logs in {logs}; see: ddfast status {out} --watch")
    if arguments.launcher == "local" and (failed := wait(jobs)):
        raise RuntimeError("\n".join(failed))
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from ddfast.runs.lookout import Lookout
    from ddfast.runs.show import as_line, describe_overview, watch

    lookout = Lookout(arguments.folder)
    show = as_line if arguments.json else partial(describe_overview, tasks=arguments.tasks)
    if arguments.watch:
        watch(lookout, show, seconds=arguments.every)
    else:
        print(show(lookout.look()))
    return 0


def _retry(arguments: argparse.Namespace) -> int:
    from ddfast.runs.upkeep import retry

    names = retry(arguments.folder, arguments.task, verify=arguments.verify)
    hint = "; start the run again with --resume, unless its workers are still at it" if names else ""
    print(f"{len(names)} tasks freed{hint}")
    print("".join(f"  {name}\n" for name in names), end="")
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    from ddfast.runs.upkeep import clean

    cleaned = clean(arguments.folder)
    print(
        f"removed {cleaned.temporaries} unfinished files that had not changed for minutes and "
        f"{cleaned.state_files} state files of finished tasks"
    )
    return 0
