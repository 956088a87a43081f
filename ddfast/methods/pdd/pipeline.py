"""PDD from start to finish: stage after stage of the base method, and one distilled set of all of them."""

from __future__ import annotations

import shutil
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
from ddfast.methods._problem import Problem
from ddfast.methods.pdd.config import PDDConfig
from ddfast.methods.pdd.difficulty import Difficulty, scores_digest
from ddfast.methods.pdd.part import Part
from ddfast.methods.pdd.starts import FreshStarts, Lesson, Transition, keep_origins, pooled_starts
from ddfast.runs import TIMINGS_FILE, Ledger, RunError, Timings, open_ledger, refuse_occupied
from ddfast.runs.folder import DEFAULT_OUTPUTS
from ddfast.store.manifest import MANIFEST_FILE
from ddfast.train.matching import Matcher, MatchingData, Starts
from ddfast.train.trajectories import EXPERTS_FILE

STAGES, STARTS = "stages", "starts"
OUTPUTS = (*DEFAULT_OUTPUTS, STAGES, TIMINGS_FILE)


def run(source: Source, out: Path, config: PDDConfig, options: RunOptions, observer: Any = None) -> None:
    """Distils ``source`` into ``out``; see :func:`ddfast.distill`.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: a training or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the output folder holds something else, or the disk is full.
    """
    if observer is not None:
        raise ValueError("observer: got one, but pdd has none; the networks it needs are trained")
    refuse_occupied(out, resume=options.resume, overwrite=options.overwrite)
    require_classes(source, max(config.base_config.fewest_classes, 2 if config.transition else 1), "pdd")
    require_images(source, config.ipc, f"stages={config.stages} with ipc_per_stage={config.ipc_per_stage}")
    settings = {
        "method": "pdd",
        "config": config.identity(),
        "source": {"name": source.name, "fingerprint": source.fingerprint()},
    }
    if (scores := scores_digest(config)) is not None:
        settings["scores"] = scores
    tasks = [*(_task(stage) for stage in range(config.stages)), "write"]
    with open_ledger(
        out, tasks, settings, resume=options.resume, overwrite=options.overwrite, outputs=OUTPUTS
    ) as ledger:
        if not ledger.finished():
            stages = _Run(source, out, config, options, ledger)
            stages.all()
            show_timings(stages.timings, stages.title, options)
        ledger.finish(keep_files=False)
        _tidy(out / STAGES)


def _task(stage: int) -> str:
    return f"stage-{stage}"


def _tidy(folder: Path) -> None:
    """Drops what only later stages needed; the first stage's experts and all pictures stay."""
    for stage in folder.glob("*"):
        (stage / CHECKPOINT).unlink(missing_ok=True)
        shutil.rmtree(stage / STARTS, ignore_errors=True)
        if stage.name != "0":
            shutil.rmtree(stage / EXPERTS, ignore_errors=True)


class _Run:
    def __init__(self, source: Source, out: Path, config: PDDConfig, options: RunOptions, ledger: Ledger) -> None:
        self.out, self.config, self.options, self.ledger = out, config, options, ledger
        self.base = config.base_config
        self.title, self.timings = f"pdd over {config.base}", Timings(out / TIMINGS_FILE)
        self.problem = Problem(
            source, self.base, options, config.base, ipc=config.ipc, timings=self.timings, measured=True
        )
        self.transition = Transition(
            self.base, self.problem.net, config.transition_epochs, self.problem.device, self.timings
        )
        self.parts: list[Part] = []
        self.difficulty: Difficulty | None = None
        if config.forgetting is not None:
            self.difficulty = Difficulty.of(self.problem, config, options, out / STAGES)

    def all(self) -> None:
        for stage in range(self.config.stages):
            if not self.ledger.completed(_task(stage)):
                with self.timings.section(f"stage {stage + 1}"):
                    self._stage(stage)
            self.parts.append(Part.read(self._folder(stage), self.ledger.records()[_task(stage)].record))
        if not self.ledger.completed("write"):
            with self.ledger.claim("write") as task:
                self._write()
                task.complete()

    def _folder(self, stage: int) -> Path:
        return self.out / STAGES / str(stage)

    def _stage(self, stage: int) -> None:
        """One stage, from wherever an earlier call was stopped in it."""
        config, folder = self.config, self._folder(stage)
        folder.mkdir(parents=True, exist_ok=True)
        starts = self._starts(stage)
        matcher = self._matcher(stage, starts)
        stream = f"{config.base}/stage {stage}" if stage else config.base
        before = None if config.conditioning or not stage else self._union()
        with self.ledger.claim(_task(stage)) as task:
            title = f"{self.title}, stage {stage + 1} of {config.stages}"
            loop = Loop(
                matcher, self.problem, folder, self.options, stream=stream, starts=starts, before=before, title=title
            )
            course = loop.run()
            part = _part(matcher, loop.student_set())
            task.write_bytes(f"{STAGES}/{stage}/{Part.FILE}", save(part.tensors()))
            task.complete({"lr": part.lr, "notes": part.notes, "tests": course.tests, "losses": course.losses})
        (folder / CHECKPOINT).unlink(missing_ok=True)
        if stage and (folder / EXPERTS).exists():
            shutil.rmtree(folder / EXPERTS)  # gigabytes that nothing reads again

    def _matcher(self, stage: int, starts: Starts | None) -> Matcher:
        problem = self.problem if self.difficulty is None else self.difficulty.problem(self.problem, stage)
        images, labels = problem.resident()
        frozen, frozen_labels = torch.empty(0, *images.shape[1:], device=images.device), labels.new_empty(0)
        if self.config.conditioning and self.parts:
            frozen = torch.cat([part.stored for part in self.parts]).to(frozen)
            frozen_labels = torch.cat([part.labels for part in self.parts]).to(labels)
        data = MatchingData(problem.net, images, labels, frozen, frozen_labels, starts)
        # fresh experts of the same pictures are the same in every stage: trained once, in the first stage's folder
        own = starts is not None or (self.difficulty is not None and self.difficulty.everywhere)
        folder = self._folder(stage if own else 0)
        make = self.config.method.make_matcher
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
        return pooled_starts(self.transition, stage, before, folder, lessons[-1], count, what, self.options)

    def _write(self) -> None:
        config, parts = self.config, self.parts
        if (self.out / MANIFEST_FILE).exists():
            return
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
