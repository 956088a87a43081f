"""PDD over MTT by ddfast and by the transcription, on the same pictures and draws."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import ddfast
from benchmarks.baselines import pdd_reference as reference
from ddfast.data.arrays import ArraySource, open_npz
from ddfast.methods import get_method
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.pdd.config import PDDConfig
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import Timings, seeds
from ddfast.train.dsa import STRATEGY, apply_dsa, draw_dsa
from ddfast.train.flat_student import fresh_theta

# pictures of a class, width, experts, iterations of a stage, steps of each, epochs on distilled images
SIZES = {"smoke": (10, 8, 1, 1, 2, 2), "medium": (40, 64, 2, 3, 5, 10), "full": (60, 128, 2, 4, 8, 15)}
STAGES, CLASSES, EPOCHS = 3, 10, 2
MACS = {"first": 3.54e6, "others": 47.2e6}  # of a picture at width 128: forward pass


@dataclass(frozen=True)
class Timed:
    """CPU and wall seconds of a run and of its parts, and each stage's images less where they began."""

    cpu: float
    wall: float
    timings: Timings
    moved: list[Tensor]


class Pipeline:
    """One setting: CIFAR-10 pictures, or digits where the subset is not there; three stages of one image a class.

    Args:
        data: ``cifar10-subset.npz``.
        size: key of ``SIZES``.
    """

    def __init__(self, data: Path, size: str) -> None:
        self.data = data
        self.per_class, self.width, self.experts, self.iterations, self.steps, self.epochs = SIZES[size]

    @cached_property
    def source(self) -> ArraySource:
        whole = open_npz(self.data) if self.data.exists() else ddfast.data.open_source("mnist5k")
        pictures = [whole.load(label, k) for label in range(CLASSES) for k in range(self.per_class)]
        labels = np.arange(CLASSES).repeat(self.per_class)
        return ArraySource(np.stack([np.asarray(each) for each in pictures]), labels, whole.class_names, name="bench")

    @property
    def options(self) -> dict[str, Any]:
        """Of the base method."""
        return {
            "width": self.width, "zca": False, "experts": self.experts, "expert_train_epochs": EPOCHS,
            "iterations": self.iterations, "syn_steps": self.steps, "expert_epochs": 1, "max_start_epoch": EPOCHS,
            "lr_img": 100.0, "lr_lr": 1e-7, "lr_teacher": 0.01, "eval_every": self.iterations, "eval_students": 2,
            "eval_epochs": self.epochs, "test": "split",
        }  # fmt: skip

    @cached_property
    def config(self) -> PDDConfig:
        config: PDDConfig = get_method("pdd").configure(
            None, base="mtt", stages=STAGES, ipc_per_stage=1, transition_epochs=self.epochs, base_option=self.options
        )
        return config

    @cached_property
    def problem(self) -> Problem:
        """Pictures, network and initial images."""
        options = RunOptions(device="cpu")
        return Problem(self.source, self.config.base_config, options, "mtt", ipc=STAGES, measured=True)

    def ours(self, out: Path) -> Timed:
        """By ``ddfast.distill``: files, checkpoints and all."""
        cpu, wall = time.process_time(), time.perf_counter()
        made = ddfast.distill(
            "pdd", self.source, out=out, base="mtt", stages=STAGES, ipc_per_stage=1, transition_epochs=self.epochs,
            base_option=self.options, quiet=True, device="cpu",
        )  # fmt: skip
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        return Timed(cpu, wall, Timings(out / "timings.json"), self._moved(made.extras["trained_images"].chunk(STAGES)))

    def theirs(self) -> Timed:
        """By the transcription."""
        real, config = self.problem.real(), self.config.base_config
        names = {f.name for f in fields(reference.Settings)}
        given = {name: getattr(config, name) for name in names if hasattr(config, name)}
        settings = reference.Settings(
            **given, stages=STAGES, classes=CLASSES, transition_epochs=self.config.transition_epochs
        )
        timings = Timings()

        @contextmanager
        def part(section: str, name: str) -> Iterator[None]:
            with timings.section(section), timings.part(name):
                yield

        test = self.problem.test, self.problem.test_labels
        cpu, wall = time.process_time(), time.perf_counter()
        with ddfast.ops.use_backend("reference", ["dsa", "dsa_adjoint"]):
            run = reference.run(real, test, settings, Draws(self.problem), part)
        return Timed(time.process_time() - cpu, time.perf_counter() - wall, timings, self._moved(run.images))

    def flops(self) -> float:
        """Of all products of convolutions, as the transcription needs them: trainings three passes, matching nine."""
        scale = (self.width / 128) * MACS["first"], (self.width / 128) ** 2 * MACS["others"]
        training, matching = 2 * scale[0] + 3 * scale[1], 6 * scale[0] + 9 * scale[1]
        pictures = STAGES * self.experts * EPOCHS * len(self.problem.labels)
        sets = [CLASSES * (k + 1) for k in range(STAGES)]
        pictures += (self.epochs + 1) * (2 * sum(sets) + self.experts * sum(sets[:-1]))
        return 2 * (training * pictures + matching * STAGES * self.iterations * self.steps * CLASSES)

    def _moved(self, images: Any) -> list[Tensor]:
        real = self.problem.real()[0]
        return [each - self.problem.initial(real, stage)[0] for stage, each in enumerate(images)]


class Draws:
    """ddfast's, for the transcription; the augmentation in plain torch."""

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.net, FlatConvNet)
        self.problem, self.net = problem, problem.net

    def network(self, stream: str) -> list[Tensor]:
        return list(self.net.split(fresh_theta(self.net, 0, stream)))

    def initial(self, stage: int) -> tuple[Tensor, Tensor]:
        return self.problem.initial(self.problem.real()[0], stage)

    def order(self, stream: str, epoch: int, count: int) -> Tensor:
        return torch.from_numpy(seeds.permutation(0, stream, epoch, count))

    def augmented(self, x: Tensor, stream: str, epoch: int, step: int) -> Tensor:
        size = (self.net.input_size, self.net.input_size)
        draw = draw_dsa(STRATEGY, len(x), size, seed=0, epoch=epoch, step=step, stream=stream)
        return apply_dsa(x, draw)

    def start_epoch(self, stream: str, iteration: int) -> int:
        return int(np.ravel(seeds.integers(seeds.counter_bits(0, stream, iteration), EPOCHS))[0])


def difference(ours: Timed, theirs: Timed) -> list[float]:
    """1 - cosine between how far both moved a stage's images."""
    pairs = zip(ours.moved, theirs.moved, strict=True)
    return [1 - float(F.cosine_similarity(a.double().flatten(), b.double().flatten(), 0)) for a, b in pairs]
