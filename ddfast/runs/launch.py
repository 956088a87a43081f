"""Open the ledger the way a command line asks for it, alone or as one of many workers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddfast.runs import folder
from ddfast.runs.atomic import RunError
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.ledger import Ledger
from ddfast.runs.worker import Worker


def open_ledger(
    root: str | os.PathLike[str],
    tasks: Sequence[str],
    config: Mapping[str, Any],
    *,
    worker: Worker | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verify: bool = False,
    outputs: Sequence[str] = DEFAULT_OUTPUTS,
) -> Ledger:
    """Create, resume or join a run.

    With ``resume`` every worker starts or continues the run, whichever comes first; use it for job arrays, whose tasks
    start in any order. Without it worker 0 creates the run and the others wait for it; one that its launcher has
    started again goes on with the run it left.

    Args:
        root: output folder.
        tasks: task ids in their order.
        config: what decides the results.
        worker: who this is; None for alone.
        resume: go on with a run that may be there.
        overwrite: delete an earlier run first; only alone, since other workers could already be in the old one.
        verify: with ``resume``, compare checksums of finished files.
        outputs: shell patterns of the entries the run makes in ``root``.

    Raises:
        ValueError: ``resume`` and ``overwrite`` together, or ``overwrite`` with several workers.
        RunError: as `Ledger.create`, `Ledger.resume` and `Ledger.join`.
    """
    me = worker or Worker()
    if resume and overwrite:
        raise ValueError("resume and overwrite exclude each other; choose one")
    if overwrite and me.count > 1:
        raise ValueError(
            f"overwrite: not with {me.count} workers, some could be in the old run already. "
            "Delete the folder first, or overwrite with a single worker."
        )
    if resume or me.restarted:
        ledger = Ledger.resume(root, tasks, config, verify=verify, outputs=outputs)
    elif me.index == 0:
        ledger = Ledger.create(root, tasks, config, overwrite=overwrite, outputs=outputs)
    else:
        ledger = Ledger.join(root, tasks, config, outputs=outputs)
    ledger.prefer(me.index, me.count)
    return ledger


def refuse_occupied(
    root: str | os.PathLike[str], *, resume: bool, overwrite: bool, worker: Worker | None = None
) -> None:
    """The check of the output folder that needs no configuration, to be made before any long work.

    Args:
        root: output folder.
        resume, overwrite: as in `open_ledger`.
        worker: who this is; those beside or after another that made the run (`Worker.continues`) may find it there.

    Raises:
        RunError: neither ``resume`` nor ``overwrite``, and the folder is not empty; or the path is a file.
    """
    path = Path(root)
    if folder.is_empty(path) or (worker or Worker()).continues(resume) or overwrite:
        return
    if not folder.read_marker(path):
        raise RunError(f"{path}: is not empty, and what it holds is no run of ddfast. Choose another folder.")
    raise RunError(
        f"{path}: holds a run or a distilled set. Go on with resume (--resume; finished tasks are kept), start anew "
        "with overwrite (--overwrite; deletes it), or choose another folder."
    )
