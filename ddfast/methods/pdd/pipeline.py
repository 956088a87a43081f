"""PDD from start to finish: stage after stage of the base method, and one distilled set of all of them."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ddfast.data import Source, require_images
from ddfast.methods._driver import (
    CHECKPOINT,
    EXPERTS,
    HasExtras,
    HasNotes,
    HasStarts,
    Loop,
    loss_curve,
    require_classes,
    show_timings,
)
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem, planned_normalization
from ddfast.methods.pdd.config import COUNT, PDDConfig
from ddfast.methods.pdd.difficulty import Difficulty, scores_digest
from ddfast.methods.pdd.part import Part
from ddfast.methods.pdd.starts import FreshStarts, Lesson, Transition, keep_origins, pooled_starts
from ddfast.runs import TIMINGS_FILE, Ledger, RunError, Task, Timings, open_ledger, refuse_occupied
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.runs.sharing import teller, unless
from ddfast.store.files import IMAGES_FILE
from ddfast.train.matching import Matcher, MatchingData, Starts
from ddfast.train.trajectories import EXPERTS_FILE

STAGES, STARTS = "stages", "starts"
OUTPUTS = (*DEFAULT_OUTPUTS, STAGES, TIMINGS_FILE)


def run(source: Source, out: Path, config: PDDConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Any number of workers may do so at once: they share experts and transitions of a stage, then one matches while the
    others wait; they go on from its last checkpoint if it dies.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: a training or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    if observer is not None:
        raise ValueError("observer: got one, but pdd has none; the networks it needs are trained")
    worker = options.worker()
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite, worker=worker)
    require_classes(source, max(config.base_config.fewest_classes, 2 if config.transition else 1), "pdd")
    require_images(source, config.ipc, f"stages={config.stages} with ipc_per_stage={config.ipc_per_stage}")
    config.base_config.fitting_net(len(source.class_names))
    settings = {
        "method": "pdd",
        "config": config.identity(),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
        "normalization": planned_normalization(source, measured=True),
    }
    if (scores := scores_digest(config)) is not None:
        settings["scores"] = scores
    tasks = [*(_task(stage) for stage in range(config.stages)), "write"]
    with open_ledger(
        out, tasks, settings, worker=worker, resume=options.resume, overwrite=options.overwrite, outputs=OUTPUTS
    ) as ledger:
        if not ledger.finished():
            _forget_dropped(ledger, out, config.stages)
            with unless(ledger.finished):
                _Run(source, out, config, options, ledger).all()
        ledger.finish(keep_files=("write",))
        _tidy(out / STAGES)


def _task(stage: int) -> str:
    return f"stage-{stage}"


def _forget_dropped(ledger: Ledger, out: Path, stages: int) -> None:
    """A set that is to be made anew needs all stages again: their parts were dropped when it was finished."""
    done = [stage for stage in range(stages) if ledger.completed(_task(stage))]
    if not all((out / STAGES / str(stage) / Part.FILE).exists() for stage in done) and not ledger.completed("write"):
        for stage in done:
            ledger.forget(_task(stage))


def _tidy(folder: Path) -> None:
    """Drops what only later stages needed; the first stage's experts and all pictures stay."""
    for stage in folder.glob("*"):
        (stage / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(stage / STARTS, ignore_errors=True)
        if stage.name != "0":
            shutil.rmtree(stage / EXPERTS, ignore_errors=True)


class _Run:
    def __init__(self, source: Source, out: Path, config: PDDConfig, options: RunOptions, ledger: Ledger) -> None:
        self.source, self.out, self.config, self.options, self.ledger = source, out, config, options, ledger
        self.base = config.base_config
        self.title, self.timings = f"pdd over {config.base}", Timings(out / TIMINGS_FILE)
        net = self.base.net(len(source.class_names))
        self.transition = Transition(
            self.base, net, config.transition_epochs, options.torch_device(), self.timings
        )  # fmt: skip
        self.parts: list[Part] = []
        self._problem: Problem | None = None

    def all(self) -> None:
        """What is left to do, together with other workers."""
        for stage in range(self.config.stages):
            if not self.ledger.completed(_task(stage)):
                with self.timings.section(f"stage {stage + 1}"):
                    self._stage(stage)
            self.parts.append(Part.read(self._folder(stage), self.ledger.records()[_task(stage)].record))
        task = self.ledger.claim_or_wait("write", on_wait=self._wait)
        if task is not None:
            with task:
                self._write()
                task.record_file(IMAGES_FILE)
                task.complete()
            show_timings(self.timings, self.title, self.options)

    @property
    def problem(self) -> Problem:
        """The pictures, read when they are first needed."""
        if self._problem is None:
            with self.timings.section(""):
                self._problem = Problem(
                    self.source, self.base, self.options, self.config.base, ipc=self.config.ipc, timings=self.timings,
                    measured=True,
                )  # fmt: skip
        return self._problem

    @cached_property
    def difficulty(self) -> Difficulty | None:
        """Which pictures are each stage's."""
        if self.config.forgetting is None:
            return None
        with self.timings.section(""):
            return Difficulty.of(self.problem, self.config, self.options, self.out / STAGES)

    def _wait(self, what: str) -> None:
        self._problem = None  # maybe for hours
        teller(self.options.quiet)(what)

    def _folder(self, stage: int) -> Path:
        return self.out / STAGES / str(stage)

    def _stage(self, stage: int) -> None:
        """One stage, from wherever an earlier call was stopped in it; by this worker or another."""
        name, folder = _task(stage), self._folder(stage)
        with unless(lambda: self.ledger.completed(name)):
            if not self.ledger.busy(name):
                self._prepare(stage)
            task = self.ledger.claim_or_wait(name, on_wait=self._wait)
            if task is None:
                return
            folder.mkdir(parents=True, exist_ok=True)
            with task:
                self._distill(stage, folder, task)
            (folder / CHECKPOINT).unlink(missing_ok=True)
            if stage:
                shutil.rmtree(folder / EXPERTS, ignore_errors=True)  # gigabytes that nothing reads again

    def _prepare(self, stage: int) -> None:
        """What all workers do together before one of them matches."""
        starts = self._starts(stage)
        if self.config.method.share is not None:
            problem, data = self._data(stage, starts)
            folder = self._experts_folder(stage, starts)
            self.config.method.share(problem, self.config.stage_config(stage), data, stage, folder, self.options)
        elif self.config.forgetting == COUNT:
            self._pictures(stage)  # counted by all of them

    def _distill(self, stage: int, folder: Path, task: Task) -> None:
        config = self.config
        starts = self._starts(stage)
        matcher = self._matcher(stage, starts)
        stream = f"{config.base}/stage {stage}" if stage else config.base
        before = None if config.conditioning or not stage else self._union()
        title = f"{self.title}, stage {stage + 1} of {config.stages}"
        loop = Loop(
            matcher, self.problem, folder, self.options, stream=stream, starts=starts, before=before, title=title,
            task=task,
        )  # fmt: skip
        course = loop.run()
        part = _part(matcher, loop.student_set())
        task.write_bytes(f"{STAGES}/{stage}/{Part.FILE}", save(part.tensors()))
        task.complete({"lr": part.lr, "notes": part.notes, "tests": course.tests, "losses": course.losses})

    def _pictures(self, stage: int) -> Problem:
        problem = self.problem if self.difficulty is None else self.difficulty.problem(self.problem, stage)
        problem = copy.copy(problem)
        problem.wanted = self._wanted(stage)
        return problem

    def _data(self, stage: int, starts: Starts | None) -> tuple[Problem, MatchingData]:
        problem = self._pictures(stage)
        images, labels = problem.resident()
        frozen, frozen_labels = torch.empty(0, *images.shape[1:], device=images.device), labels.new_empty(0)
        if self.config.conditioning and self.parts:
            frozen = torch.cat([part.stored for part in self.parts]).to(frozen)
            frozen_labels = torch.cat([part.labels for part in self.parts]).to(labels)
        return problem, MatchingData(problem.net, images, labels, frozen, frozen_labels, starts)

    def _experts_folder(self, stage: int, starts: Starts | None) -> Path:
        # fresh experts of the same pictures are the same in every stage: trained once, in the first stage's folder
        own = starts is not None or (self.difficulty is not None and self.difficulty.everywhere)
        return self._folder(stage if own else 0)

    def _wanted(self, stage: int) -> Callable[[], bool]:
        """Whether anything is left to prepare a stage for; what was prepared is removed then."""
        return lambda: not self.ledger.completed(_task(stage))

    def _matcher(self, stage: int, starts: Starts | None) -> Matcher:
        problem, data = self._data(stage, starts)
        folder, make = self._experts_folder(stage, starts), self.config.method.make_matcher
        assert make is not None
        matcher: Matcher = make(problem, self.config.stage_config(stage), data, stage, folder, self.options)
        if stage == 0 and self.config.transition and self.config.stages > 1 and isinstance(matcher, HasStarts):
            keep_origins(folder / STARTS, matcher.starts(), self.config.networks, {"origins": "first stage"})
        return matcher

    def _union(self) -> tuple[Tensor, Tensor]:
        """All sets so far as students are trained on them."""
        last = self.parts[-1]
        return last.images.to(self.problem.device), last.targets.to(self.problem.device)

    def _lessons(self) -> list[Lesson]:
        return [Lesson(part.images, part.targets, part.lr) for part in self.parts]

    def _starts(self, stage: int) -> Starts | None:
        """Where a stage begins; None for fresh networks."""
        if not stage or not self.config.transition:
            return None
        lessons, count = self._lessons(), self.config.networks
        if not count:
            return FreshStarts(self.transition, lessons, self.base.iterations)
        what = {"stage": stage, "epochs": self.config.transition_epochs, "sets": [part.digest for part in self.parts]}
        before, folder = (self._folder(k) / STARTS for k in (stage - 1, stage))
        if (stage > 1 or hasattr(self.base, "experts")) and not (before / EXPERTS_FILE).exists():
            raise RunError(
                f"{before}: the networks that stage {stage - 1} began at are gone; start anew with --overwrite"
            )
        wanted = self._wanted(stage)
        return pooled_starts(self.transition, stage, before, folder, lessons[-1], count, what, self.options, wanted)

    def _write(self) -> None:
        config, parts = self.config, self.parts
        lrs = [part.lr for part in parts]
        recipes = [self.base.recipe(lr) for lr in lrs]
        names = set.intersection(*(set(part.extras) for part in parts))
        extras = {name: torch.cat([part.extras[name] for part in parts]) for name in sorted(names)}
        if all(lr is not None for lr in lrs):
            extras["lr"] = torch.tensor(lrs)
        notes: dict[str, Any] = {}
        for part in parts:
            notes |= part.notes
        manifest = {
            "method": "pdd",
            "preset": config.preset,
            "config": config.identity(),
            "lr": recipes[-1]["lr"],
            "recipe": recipes[-1],
            "stages": [stage for stage, part in enumerate(parts) for _ in part.labels],
            "stage_lrs": [recipe["lr"] for recipe in recipes],
            "stage_momentum": "carried",  # from stage to stage, when a student is trained on one after the other
            "tests": [{"stage": stage, **test} for stage, part in enumerate(parts) for test in part.tests],
            **({} if self.difficulty is None else {"stage_pictures": self.difficulty.counts}),
            **notes,
            "losses": [loss_curve(part.losses) for part in parts],
        }
        stored, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("stored", "labels"))
        self.problem.write(self.out, stored, labels, extras, manifest)


def _part(matcher: Matcher, union: tuple[Tensor, Tensor]) -> Part:
    stored, labels = matcher.stored()
    extras = matcher.extras() if isinstance(matcher, HasExtras) else {}
    notes = matcher.notes() if isinstance(matcher, HasNotes) else {}
    return Part(stored, labels, *union, dict(extras), matcher.learned_lr(), notes)
