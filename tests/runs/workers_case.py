"""Small runs of everything that workers share, and several processes that do one at the same time.

The processes are forked from a server that has imported this file and computed nothing, so that each starts at once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import ddfast
from ddfast import cli
from ddfast.evaluation import continual, evaluate
from ddfast.runs import Task, identify_worker
from ddfast.train.relabel import relabel
from ddfast.train.small_observer import SmallObserver
from tests.evaluation import eval_case
from tests.methods.rded_case import SETTINGS, small_net
from tests.train.label_helpers import VIEW, teacher, tiny_set

CLASSES, EACH = 6, 12
Job = Callable[[Path, "str | None", Path], Any]
_SECONDS = 120
_SLOW = ("torch._dynamo", "torch.export._trace")  # what optimisers and the capture of a network import later on


@dataclass(frozen=True)
class Shared:
    """How many tasks of the run each worker did, and how many observers were trained in all."""

    tasks: list[int]
    trained: int


def together(job: Job, count: int, out: Path, pictures: Path, *, between: Callable[[], bool] | None = None) -> Shared:
    """``count`` processes do a job in one folder; each ends without error.

    Two wait for each other before their first task ends, so that both do some.

    Args:
        job: gets the folder, ``"i/n"`` (None for one alone) and the pictures.
        count: how many.
        out: the folder.
        pictures: class folders.
        between: the last worker starts first, and the others once this is true; None for all at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_SLOW, __name__])
    counts, meeting = context.Array("i", count + 1), context.Barrier(count)
    workers = [
        context.Process(target=_worker, args=(job, index, count, out, pictures, counts, meeting))
        for index in reversed(range(count))
    ]
    for worker in workers:
        worker.start()
        limit = time.monotonic() + _SECONDS
        while between is not None and not between():
            assert time.monotonic() < limit
            time.sleep(0.01)
    for worker in workers:
        worker.join(_SECONDS)
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.kill()
    assert codes == [0] * count
    return Shared(counts[:count], counts[count])


def _worker(job: Job, index: int, count: int, out: Path, pictures: Path, counts: Any, meeting: Any) -> None:
    torch.set_num_threads(1)
    complete, train = Task.complete, SmallObserver.train

    def counted(task: Task, record: Mapping[str, Any] | None = None) -> bool:
        if task.ledger.root == out:
            counts[index] += 1
            if counts[index] == 1 and count == 2:
                with suppress(threading.BrokenBarrierError):  # the counts will tell
                    meeting.wait(20)
        return complete(task, record)

    def trained(observer: SmallObserver, *given: Any) -> Any:
        with counts.get_lock():
            counts[count] += 1
        return train(observer, *given)

    Task.complete, SmallObserver.train = counted, trained  # type: ignore[method-assign]
    job(out, f"{index}/{count}" if count > 1 else None, pictures)


def rded(out: Path, shard: str | None, pictures: Path) -> None:
    ddfast.distill("rded", pictures, observer=small_net(CLASSES), out=out, shard=shard, workers=0, **SETTINGS)


def rded_safetensors(out: Path, shard: str | None, pictures: Path) -> None:
    given = {**SETTINGS, "observer": "train:conv3", "format": "safetensors", "mipc": 8, "workers": 1}
    ddfast.distill("rded", pictures, out=out, shard=shard, **given)


def rded_parity(out: Path, shard: str | None, pictures: Path) -> None:
    given = {**SETTINGS, "parity": True, "rounding": "truncate", "num_crop": 2}
    ddfast.distill("rded", pictures, observer=small_net(CLASSES), out=out, shard=shard, **given)


def herding(out: Path, shard: str | None, pictures: Path) -> None:
    given = {"selection": "herding", "ipc": 3, "size": 16, "quiet": True, "workers": 0}
    ddfast.distill("coreset", pictures, observer=small_net(CLASSES), out=out, shard=shard, **given)


def forgetting(out: Path, shard: str | None, pictures: Path) -> None:
    given = {
        "selection": "forgetting", "forgetting_networks": 4, "forgetting_epochs": 2, "forgetting_width": 8, "dsa": "",
        "ipc": 3, "size": 16, "quiet": True, "workers": 0,
    }  # fmt: skip
    ddfast.distill("coreset", pictures, out=out, shard=shard, **given)


def relabelled(out: Path, shard: str | None, pictures: Path) -> None:
    teachers = [teacher(), SmallObserver("conv3", eval_case.source(8, 1, names=("a", "b", "c")), 12)]
    relabel(
        tiny_set(), teachers, out, view=VIEW, epochs=6, batch_size=4, kind="topk", k=1, progress="quiet",
        worker=identify_worker(shard),
    )  # fmt: skip


def evaluated(out: Path, shard: str | None, pictures: Path) -> None:
    known = {"observer": {"name": "conv3"}, "config": {"observer": "train:conv3"}, "seed": 3}
    given = {**eval_case.SETTINGS, "teacher": "auto", "full_data": False, "ars": False, "epochs": 2}
    evaluate(
        eval_case.small_set(**known), eval_case.source(8, 2, "test"), train=eval_case.source(12, 1), out=out,
        worker=identify_worker(shard), **given,
    )  # fmt: skip


def continued(out: Path, shard: str | None, pictures: Path) -> None:
    given = {name: eval_case.SETTINGS[name] for name in ("epochs", "width", "processes", "device", "quiet")}
    continual(
        eval_case.small_set(), eval_case.source(8, 2, "test"), out=out, worker=identify_worker(shard),
        preset="smoke", steps=3, orders=2, seeds=1, **given,
    )  # fmt: skip


def command(out: Path, pictures: Path, *more: str) -> list[str]:
    """The words after ``ddfast`` of a small run that trains its observer."""
    return [
        "distill", "rded", "--data", str(pictures), "--out", str(out), "--observer", "train:conv3", "--size", "16",
        "--mipc", "8", "--ipc", "2", "--num-crop", "2", "--engine", "torch", "--workers", "0", *more,
    ]  # fmt: skip


def commanded(out: Path, shard: str | None, pictures: Path) -> None:
    """The command line as one of the tasks of a job array, which are counted from 1; or alone."""
    if shard is not None:
        index, count = shard.split("/")
        place = {"SLURM_ARRAY_TASK_ID": str(int(index) + 1), "SLURM_ARRAY_TASK_MIN": "1"}
        os.environ.update({**place, "SLURM_ARRAY_TASK_COUNT": count, "SLURM_ARRAY_JOB_ID": "7"})
    assert cli.main(command(out, pictures, "--quiet", *["--resume"] * (shard is not None))) == 0


def commanded_longer(out: Path, shard: str | None, pictures: Path) -> None:
    assert cli.main(command(out, pictures, "--quiet", *LONGER)) == 0


LONGER = ("--num-crop", "60")
