"""Runs any matching method: iterations, tests on held-out pictures, checkpoints, the distilled set."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ddfast._printable import printable
from ddfast._tensor_files import read_torch
from ddfast.data import Source, require_images
from ddfast.methods._matching_config import MatchingConfig
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem, planned_normalization
from ddfast.runs import (
    TIMINGS_FILE,
    Ledger,
    Progress,
    RunError,
    Task,
    Timings,
    atomic_write_bytes,
    open_ledger,
    refuse_occupied,
)
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.sharing import teller, unless
from ddfast.store import contact_sheet_png
from ddfast.store.files import IMAGES_FILE
from ddfast.train import NonFiniteLossError
from ddfast.train.flat_student import flat_accuracy, fresh_theta
from ddfast.train.matching import Matcher, MatchingData, Starts

CHECKPOINT, EXPERTS, TASK = "checkpoint.pt", "experts", "distill"
OUTPUTS = (*DEFAULT_OUTPUTS, CHECKPOINT, EXPERTS, TIMINGS_FILE, "images_*.png")
_SECONDS = 60.0  # between checkpoints
_CURVE = 2000  # losses of a manifest, at most

# (problem, config, data, stage from 0, folder for files such as experts, options)
MakeMatcher = Callable[[Problem, Any, MatchingData, int, Path, RunOptions], Matcher]
Share = Callable[[Problem, Any, MatchingData, int, Path, RunOptions], None]  # by all workers, before one matches


@runtime_checkable
class HasExtras(Protocol):
    """A matcher with further tensors for the distilled set (``trained_images`` among them replaces ``stored``)."""

    def extras(self) -> dict[str, Tensor]:
        """By name."""


@runtime_checkable
class HasNotes(Protocol):
    """A matcher with entries for the manifest."""

    def notes(self) -> dict[str, Any]:
        """JSON values."""


@runtime_checkable
class HasStarts(Protocol):
    """A matcher of networks that it trains itself, such as experts."""

    def starts(self) -> list[Tensor]:
        """Their initial weights."""


def run_matching(
    method: str, source: Source, out: Path, config: MatchingConfig, options: RunOptions, make_matcher: MakeMatcher,
    observer: Any = None, share: Share | None = None,
) -> None:  # fmt: skip
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Any number of workers may do so at once: all of them ``share``, then one matches while the others wait; they go on
    from its last checkpoint if it dies.

    Args:
        method: its name, which also begins the names of the random streams.
        source, out, config, options, observer: as a method's ``run`` gets them.
        make_matcher: makes the method's matcher.
        share: what can be done together before that.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    if observer is not None:
        raise ValueError(f"observer: got one, but {method} has none; the networks it needs are trained")
    worker = options.worker()
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
    require_classes(source, config.fewest_classes, method)
    require_images(source, config.ipc, f"ipc={config.ipc}")
    config.fitting_net(len(source.class_names))
    settings = {
        "method": method,
        "config": config.identity(),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "normalization": planned_normalization(source, measured=True),
    }
    with open_ledger(
        out, [TASK], settings,
        worker=worker, resume=options.resume, overwrite=options.overwrite, outputs=OUTPUTS,
    ) as ledger:  # fmt: skip
        with unless(ledger.finished):
            _Run(method, source, out, config, options, ledger).all(make_matcher, share)
        ledger.finish()
    (out / CHECKPOINT).unlink(missing_ok=True)  # here, so that a run killed just before it leaves none for good


def require_classes(source: Source, fewest: int, method: str) -> None:
    """ValueError for a source with fewer classes than a method can match."""
    if len(source.class_names) < fewest:
        raise ValueError(
            f"source (--data): {source.name} has {len(source.class_names)} class, but {method} needs {fewest} or more: "
            "the cross-entropy of a network with one output is always 0, and so are all gradients"
        )


class _Run:
    def __init__(
        self, method: str, source: Source, out: Path, config: MatchingConfig, options: RunOptions, ledger: Ledger
    ) -> None:
        self.method, self.source, self.out, self.config = method, source, out, config
        self.options, self.ledger, self.timings = options, ledger, Timings(out / TIMINGS_FILE)
        self._pictures: tuple[Problem, MatchingData] | None = None

    def all(self, make_matcher: MakeMatcher, share: Share | None) -> None:
        """What is left to do, together with other workers."""
        if share is not None and not self.ledger.completed(TASK) and not self.ledger.busy(TASK):
            share(*self._problem(), 0, self.out, self.options)
        task = self.ledger.claim_or_wait(TASK, on_wait=self._wait)
        if task is not None:
            with task:
                self._distill(task, make_matcher)
            show_timings(self.timings, self.method, self.options)

    def _problem(self) -> tuple[Problem, MatchingConfig, MatchingData]:
        """The pictures, read when they are first needed."""
        if self._pictures is None:
            problem = Problem(
                self.source, self.config, self.options, self.method, timings=self.timings, measured=True
            )  # fmt: skip
            images, labels = problem.resident()
            problem.pictures = torch.empty(0, dtype=torch.uint8)
            none = torch.empty(0, *images.shape[1:], device=images.device)
            self._pictures = problem, MatchingData(problem.net, images, labels, none, labels.new_empty(0))
        return self._pictures[0], self.config, self._pictures[1]

    def _wait(self, what: str) -> None:
        self._pictures = None  # maybe for hours
        teller(self.options.quiet)(what)

    def _distill(self, task: Task, make_matcher: MakeMatcher) -> None:
        out, config = self.out, self.config
        matcher = make_matcher(*self._problem(), 0, out, self.options)
        problem = self._problem()[0]
        self._pictures = None  # gigabytes for large sets; a matcher that needs them has them
        course = Loop(matcher, problem, out, self.options, stream=self.method, task=task).run()
        stored, classes = matcher.stored()
        lr = matcher.learned_lr()
        recipe = config.recipe(lr)
        extras = {} if lr is None else {"lr": torch.tensor([lr])}
        manifest = {
            "method": self.method,
            "config": config.identity(),
            "lr": recipe["lr"],
            "recipe": recipe,
            "tests": course.tests,
            **(matcher.notes() if isinstance(matcher, HasNotes) else {}),
            "losses": loss_curve(course.losses),
        }
        extras |= matcher.extras() if isinstance(matcher, HasExtras) else {}
        problem.write(out, stored, classes, extras, manifest)
        task.record_file(IMAGES_FILE)
        task.complete({"losses": len(course.losses), "tests": course.tests})


def show_timings(timings: Timings, title: str, options: RunOptions) -> None:
    """Says on standard error where the time went."""
    if not options.quiet:
        print(printable("\n".join(timings.lines(title))), file=sys.stderr)


def loss_curve(losses: Sequence[float]) -> list[float]:
    """For a manifest: each loss, or where there are more than 2000 the mean of each of as many equal runs of them."""
    parts = min(len(losses), _CURVE)
    edges = [place * len(losses) // parts for place in range(parts + 1)] if parts else [0]
    runs = (losses[a:b] for a, b in pairwise(edges))
    return [round(sum(run) / len(run), 6) for run in runs]


@dataclass
class Course:
    """What happened: the loss of each iteration, each test, and the test and state of the best images so far."""

    losses: list[float] = field(default_factory=list)
    tests: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)


class Loop:
    """A matcher's iterations with all that goes on beside them; stopped at any point it goes on to the same numbers.

    Args:
        matcher: the distillation, at its start.
        problem: its pictures.
        folder: for the checkpoint and the pictures of the images.
        options: of the run.
        stream: begins the names of the test students' random streams.
        starts: weights test students start from, in turn; None for fresh ones.
        before: images and targets in front of the matcher's own ``student_set()`` for test students.
        title: of the progress; None for ``stream``.
        task: what this worker holds for it; once another has taken that over, nothing more is written.
    """

    def __init__(
        self, matcher: Matcher, problem: Problem, folder: Path, options: RunOptions, *, stream: str,
        starts: Starts | None = None, before: tuple[Tensor, Tensor] | None = None, title: str | None = None,
        task: Task | None = None,
    ) -> None:  # fmt: skip
        self.task = task
        self.matcher, self.problem, self.config, self.options = matcher, problem, problem.config, options
        self.folder, self.stream, self.starts, self.before = folder, stream, starts, before
        self.title = stream if title is None else title
        self.course = Course()

    def run(self) -> Course:
        """To the end, from the checkpoint if there is one; the matcher then holds what is to be kept: its last images,
        or where ``config.keeps_best`` those that tested best.

        Raises:
            NonFiniteLossError: the matching diverged; the checkpoint holds the state before.
            RunError: the checkpoint is damaged, the disk is full, or another worker has taken over.
        """
        self._load()
        self._state = _copied(self.matcher.state_dict())
        try:
            with self.problem.timings.part("matching"):
                self._iterate()
        except BaseException:  # a stop by a signal or Ctrl-C too; it goes on at once
            if self.task is None or not self.task.lost:
                self._save()
            raise
        self._save()
        if self.config.keeps_best and self.course.best:
            self.matcher.load_state_dict(_copied(self.course.best["state"]))
        return self.course

    def student_set(self) -> tuple[Tensor, Tensor]:
        """What test students are trained on."""
        images, targets = self.matcher.student_set()
        if self.before is None:
            return images, targets
        return torch.cat([self.before[0], images]), torch.cat([self.before[1], targets])

    def _iterate(self) -> None:
        matcher, course = self.matcher, self.course
        mode = "quiet" if self.options.quiet else "auto"
        written = time.monotonic()
        with Progress(
            matcher.iterations, done=matcher.iteration, unit="iterations", title=self.title, mode=mode,
            callback=self.options.on_progress,
        ) as shown:  # fmt: skip
            while True:
                if self._due():  # also where the last call was stopped in the middle of a test
                    self._save()
                    with self.problem.timings.part("tests"), shown.paused():
                        self._look(shown)
                    self._save()
                    written = time.monotonic()
                if matcher.iteration == matcher.iterations:
                    break
                course.losses.append(matcher.advance())
                self._state = _copied(matcher.state_dict())
                if time.monotonic() - written > _SECONDS:
                    self._save()
                    written = time.monotonic()
                known = course.tests[-1].get("top1") if course.tests else None
                tested = "" if known is None else f", held-out {100 * known:.1f} %"
                lr = matcher.learned_lr()
                rate = "" if lr is None else f", lr {lr:.3g}"
                shown.update(1, f"loss {course.losses[-1]:.3f}{rate}{tested}")
                if self.task is not None:
                    self.task.tell(shown.line())

    def _due(self) -> bool:
        """Whether the images are to be looked at and were not yet."""
        iteration = self.matcher.iteration
        looked = self.course.tests[-1]["iteration"] if self.course.tests else 0
        at_end = iteration == self.matcher.iterations
        return iteration > looked and (iteration % self.config.eval_every == 0 or at_end)

    def _look(self, shown: Progress) -> None:
        """A picture of the images, and students tested on held-out pictures; notes the best images."""
        matcher, course, config = self.matcher, self.course, self.config
        iteration, lr = matcher.iteration, matcher.learned_lr()
        sheet = contact_sheet_png(self.problem.distilled(*matcher.stored()))
        self._require_held()
        atomic_write_bytes(self.folder / f"images_{iteration:05d}.png", sheet)
        test: dict[str, float] = {"iteration": iteration}
        if config.test != "none":
            test["top1"] = self._accuracy(iteration, lr, shown)
        if lr is not None:
            test["lr"] = lr
        if config.keeps_best and test.get("top1", -1.0) >= course.best.get("top1", 0.0):
            course.best = {"top1": test["top1"], "state": self._state}
        course.tests.append(test)

    def _accuracy(self, iteration: int, lr: float | None, shown: Progress) -> float:
        """Mean top-1 of ``config.eval_students`` students."""
        problem, net, config = self.problem, self.problem.net, self.config
        images, targets = self.student_set()
        scores = []
        many = f"{config.eval_students} student{'s' if config.eval_students > 1 else ''}"
        shown.write(f"{self.title}: test at iteration {iteration}: {many} of {config.eval_epochs} epochs")
        for student in range(config.eval_students):
            stream = f"{self.stream}/student {iteration} {student}"
            if self.starts is None:
                theta = fresh_theta(net, config.seed, stream)
            else:
                theta = self.starts[student % len(self.starts)]
            try:
                theta = config.train_student(
                    net, theta.to(images.device), images, targets, lr=lr, epochs=config.eval_epochs, stream=stream,
                    on_epoch=partial(self._tell, shown, iteration, student),
                )  # fmt: skip
            except NonFiniteLossError:  # images that students diverge on are bad images, not an end of the run
                scores.append(1 / net.num_classes)
                continue
            scores.append(flat_accuracy(net, theta, problem.test, problem.test_labels))
        return sum(scores) / len(scores)

    def _tell(self, shown: Progress, iteration: int, student: int, epochs: int) -> None:
        of, last = self.config.eval_students, self.config.eval_epochs
        which = f"student {student + 1} of {of}, epoch {min(epochs, last)} of {last}"
        words = f"test at iteration {iteration}: {which}"
        shown.tell(words)
        if self.task is not None:
            self.task.tell(words)

    def _save(self) -> None:
        """The state after the last whole iteration, however the next one was left."""
        content = {"matcher": self._state, **vars(self.course)}
        file = io.BytesIO()
        torch.save(content, file)
        self._require_held()
        atomic_write_bytes(self.folder / CHECKPOINT, file.getvalue())

    def _require_held(self) -> None:
        """What is on disk may be newer than what this worker has, if another one took over while it stood still."""
        if self.task is not None and self.task.lost:
            raise RunError(
                f"{self.folder}: another worker has taken over task {self.task.id}, since this one stood still too "
                "long; start this worker again"
            )

    def _load(self) -> None:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return
        try:
            content = read_torch(path, map_location=self.problem.device)
            self.matcher.load_state_dict(content.pop("matcher"))
            self.course = Course(**content)
        except (OSError, RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
            raise RunError(f"{path}: cannot be read as a checkpoint ({error}); remove it to start anew") from error
        self.course.losses = self.course.losses[: self.matcher.iteration]


def _copied(value: Any) -> Any:
    """A copy that the matcher cannot change."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(each) for key, each in value.items()}
    return [_copied(each) for each in value] if isinstance(value, (list, tuple)) else value
