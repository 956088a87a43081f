"""The networks a stage begins at: each trained on the sets so far, from where it began the stage before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import RunOptions
from ddfast.runs import Ledger, Progress, RunError, Timings, open_ledger
from ddfast.runs.sharing import require_wanted, teller
from ddfast.train.flat_student import fresh_theta
from ddfast.train.trajectories import EXPERTS_FILE, TrajectoryStore

_TOGETHER = 20  # networks trained at once on a GPU


@dataclass(frozen=True)
class Lesson:
    """What networks learn between two stages: all sets so far, at the rate the last stage learned."""

    images: Tensor
    targets: Tensor
    lr: float | None


@dataclass(frozen=True)
class Transition:
    """How start networks are trained: by the base's recipe for students, ``epochs`` long, their momentum kept where the
    rate drops (PDD's program changes the rate in place; those of its bases begin a new optimiser there)."""

    config: MatchingConfig
    net: Any
    epochs: int
    device: str
    timings: Timings = field(default_factory=Timings)

    def teach(self, theta: Tensor, lesson: Lesson, stream: str | list[str]) -> Tensor:
        """theta [P], or [K, P] with a stream each, after the lesson."""
        with self.timings.part("transitions"):
            return self.config.train_student(
                self.net, theta.to(self.device), lesson.images.to(self.device), lesson.targets.to(self.device),
                lr=lesson.lr, epochs=self.epochs, stream=stream, keep_momentum=True,
            )  # fmt: skip

    def origin(self, number: int) -> Tensor:
        """Network ``number`` before any stage: MTT's experts begin there too."""
        return fresh_theta(self.net, self.config.seed, f"expert {number}")

    @property
    def together(self) -> int:
        """Networks trained at once."""
        ours = type(self.config).train_student is MatchingConfig.train_student
        return _TOGETHER if ours and self.device != "cpu" else 1


def keep_origins(folder: Path, thetas: list[Tensor], count: int, what: dict[str, Any]) -> None:
    """Writes where the networks of the first stage began, for bases that brought their own.

    Raises:
        ValueError: fewer than ``count``.
    """
    if len(thetas) < count:
        raise ValueError(
            f"buffers: got {len(thetas)} experts, but every stage needs experts={count}; give experts={len(thetas)}"
        )
    store = TrajectoryStore.create(folder / EXPERTS_FILE, count, 0, len(thetas[0]), what)
    for number in range(count):
        if store.epochs_done(number) < 0:
            store.write(number, 0, thetas[number])


def pooled_starts(
    transition: Transition, stage: int, before: Path, folder: Path, lesson: Lesson, count: int, what: dict[str, Any],
    options: RunOptions, wanted: Callable[[], bool] | None = None,
) -> Tensor:  # fmt: skip
    """``count`` networks for a stage, each a task of a ledger of its own, so that processes can share the work.

    Args:
        transition: how they are trained.
        stage: from 1.
        before: folder of the networks of the stage before.
        folder: for these.
        lesson: to train on.
        count: how many.
        what: JSON values that decide the sets so far.
        options: of the run.
        wanted: asked before each network; once False they are not needed any more, and may be gone.

    Returns:
        float32 [count, P], on the CPU.

    Raises:
        NonFiniteLossError: a network diverged.
        RunError: the disk is full.
        ddfast.runs.sharing.Superseded: ``wanted`` said so.
    """
    tasks = [f"start-{number:05d}" for number in range(count)]
    size = transition.net.size
    earlier = TrajectoryStore.open(before) if (before / EXPERTS_FILE).exists() else None
    worker = options.worker()
    with open_ledger(folder, tasks, what, worker=worker, resume=True, outputs=(EXPERTS_FILE,)) as ledger:
        store = TrajectoryStore.create(folder / EXPERTS_FILE, count, 0, size, what)
        require_wanted(folder, wanted)  # before anything is said to be missing
        for number, task in enumerate(tasks):
            if ledger.completed(task) and store.epochs_done(number) < 0:
                ledger.forget(task)  # the store was removed since
        done = sum(1 for task in tasks if ledger.completed(task))
        mode = "quiet" if options.quiet or done == count else "auto"
        title = f"training networks on {stage} of the sets" if stage > 1 else "training networks on the first set"
        with Progress(count, done=done, unit="networks", title=title, mode=mode) as shown:
            _train(transition, stage, ledger, store, earlier, lesson, shown, wanted, teller(options.quiet))
        ledger.finish()
    return torch.stack([store.snapshot(number, 0) for number in range(count)])


def _train(
    transition: Transition, stage: int, ledger: Ledger, store: TrajectoryStore, earlier: TrajectoryStore | None,
    lesson: Lesson, shown: Progress, wanted: Callable[[], bool] | None, on_wait: Callable[[str], None],
) -> None:  # fmt: skip
    for first in ledger.claims(wanted=wanted, on_wait=on_wait):
        with ExitStack() as stack:
            tasks = [stack.enter_context(first)]
            while len(tasks) < transition.together and (another := ledger.claim_next()) is not None:
                tasks.append(stack.enter_context(another))
            numbers = [int(task.id.rpartition("-")[2]) for task in tasks]
            for task, number in zip(tasks, numbers, strict=True):
                store.begin(number, task)
            missing = [number for number in numbers if store.epochs_done(number) < 0]
            begun = [transition.origin(n) if earlier is None else earlier.snapshot(n, 0) for n in missing]
            streams = [f"pdd/transition {stage} {number}" for number in missing]
            if len(missing) == 1:
                ended = [transition.teach(begun[0], lesson, streams[0])]
            else:
                ended = list(transition.teach(torch.stack(begun), lesson, streams)) if missing else []
            for task, number in zip(tasks, numbers, strict=True):
                if number not in missing:
                    continue
                if task.lost or store.epochs_done(number) >= 0:
                    raise RunError(
                        f"{store.path}: another worker has taken over network {number}, since this one stood still too "
                        "long; start this worker again"
                    )
                store.write(number, 0, ended[missing.index(number)])
            for task in tasks:
                task.complete()
            shown.update(len(tasks))
    if not ledger.finished():
        require_wanted(store.path, wanted)


class FreshStarts:
    """A new network for each iteration; asked for, it is trained on the first set, then on the first two, and so on.

    Args:
        transition: how.
        lessons: of all stages so far.
        count: iterations.
    """

    def __init__(self, transition: Transition, lessons: list[Lesson], count: int) -> None:
        self.transition, self.lessons, self.count = transition, lessons, count
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> Tensor:
        if not 0 <= number < self.count:
            raise IndexError(f"number: got {number}, expected 0 to {self.count - 1}")
        if self._last is None or self._last[0] != number:
            name = f"pdd/fresh {len(self.lessons)} {number}"
            theta = fresh_theta(self.transition.net, self.transition.config.seed, name)
            for stage, lesson in enumerate(self.lessons, start=1):
                theta = self.transition.teach(theta, lesson, f"{name}/transition {stage}")
            self._last = (number, theta)
        return self._last[1]
