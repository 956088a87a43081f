"""The training loop that all trainings share: seeds, schedule, optimiser, watchfulness, checkpoints, progress."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ddfast.runs.seeds import stream_key
from ddfast.train import checkpoint
from ddfast.train.capture import CapturedStep, EagerStep
from ddfast.train.config import NonFiniteLossError, OnProgress, Tested, TrainConfig, TrainProgress, TrainReport
from ddfast.train.data_parallel import Group, spread
from ddfast.train.memory import TrainMemoryError, explained
from ddfast.train.objective import Batch, Objective, Step, whole_step
from ddfast.train.optimizers import Gathered, MovingAverage, make_optimizer, reset_momentum, set_rate, step_rate
from ddfast.train.views import epoch_order

__all__ = [
    "Batch",
    "LoopOptions",
    "NonFiniteLossError",
    "Objective",
    "OnProgress",
    "Step",
    "Tested",
    "TrainConfig",
    "TrainMemoryError",
    "TrainProgress",
    "TrainReport",
    "make_optimizer",
    "run",
]
WATCH = 32  # steps between looks at the losses of a GPU


@dataclass(frozen=True)
class LoopOptions:
    """How a training is run; none of it changes what comes out (beyond rounding where it is compiled or captured).

    Attributes:
        checkpoint: file to write after epochs, and to go on from where it exists.
        checkpoint_seconds: least time between two writes; 0 writes after every epoch. The end is always written. A
            training that is stopped between loses what came after the last write, within an epoch too.
        identity: JSON values that also decide the result (such as the set's sha256), kept in the checkpoint; it is
            resumed only by a training with the same.
        compile: ``torch.compile`` the model for the training steps.
        cuda_graph: capture a step as a CUDA graph (ignored on a CPU).
        validate: accuracy in [0, 1] of the model it is given, in eval mode; called after ``test_epochs``.
        test_epochs: counted from 1; None for the last alone.
        group: of processes that train this model together, each calling with the same arguments (see
            `ddfast.train.data_parallel`); None for this one alone.
    """

    checkpoint: str | Path | None = None
    checkpoint_seconds: float = 60.0
    identity: dict[str, Any] = field(default_factory=dict)
    compile: bool = False
    cuda_graph: bool = False
    validate: Callable[[nn.Module], float] | None = None
    test_epochs: Collection[int] | None = None
    group: Group | None = None


def run(
    model: nn.Module,
    count: int,
    config: TrainConfig,
    step: Step | Objective,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
    gathered: Gathered | None = None,
) -> TrainReport:
    """Train for ``config.epochs`` passes over ``count`` samples.

    The global generator is seeded anew for each epoch (dropout) and restored afterwards; the model ends in train mode,
    holding the moving average where ``config.ema`` asks for one. A training that was killed and is resumed from its
    checkpoint gives the same weights as one that was not: bit for bit on a CPU with the same number of threads.

    Args:
        model: trained in place.
        count: samples of an epoch.
        config: what decides the result.
        step: an `Objective`, or a function of int64 sample numbers [b] on the CPU, epoch and step (both from 0) that
            returns a scalar loss.
        on_progress: called with a ``TrainProgress`` after each step (every 32 on a GPU).
        options: checkpoint, compilation, tests on the way.
        gathered: the optimiser begins with what is in it, and leaves there what it has at the end.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite; on a GPU noticed within 32 steps, so that steps need not wait.
            The checkpoint on disk is from before.
        TrainMemoryError: a step did not fit; names the batch size that would.
        RunError: the checkpoint is damaged or belongs to another training.
        ValueError: no samples, or a training that cannot be spread over ``options.group``.
    """
    if count < 1:
        raise ValueError(f"images: got {count} images, expected at least 1")
    objective = step if isinstance(step, Objective) else whole_step(step)
    options = options or LoopOptions()
    if options.group and (options.compile or options.cuda_graph):
        raise ValueError("options: compile and cuda_graph are not supported in data-parallel training; leave them out")
    with spread(model, objective, options.group) as own:
        loop = _Loop(model, count, config, own, on_progress, options)
        if gathered is None:
            return loop.run()
        gathered.give(loop.optimizer)
        report = loop.run()
        gathered.take(loop.optimizer)
        return report


class _Loop:
    def __init__(
        self,
        model: nn.Module,
        count: int,
        config: TrainConfig,
        objective: Objective,
        on_progress: OnProgress | None,
        options: LoopOptions,
    ) -> None:
        self.model, self.count, self.config, self.objective = model, count, config, objective
        self.on_progress, self.options, self.group = on_progress, options, options.group
        self.device = next(model.parameters()).device
        captured = options.cuda_graph and self.device.type == "cuda"
        self.optimizer = make_optimizer(model, config, capturable=captured)
        self.average = MovingAverage(model, config.ema) if config.ema else None
        self.step: Callable[[tuple[Tensor, ...]], Tensor] = EagerStep(
            objective, self.optimizer, self.device, bf16=config.precision == "bf16"
        )
        if captured:
            self.step = CapturedStep(self.step, self.device)
        self.shape = (objective.models,) if objective.models else ()
        self.steps = -(-count // config.batch_size)
        self.path = Path(options.checkpoint) if options.checkpoint else None
        self.who = checkpoint.identity(model, count, config, options.identity)
        self.state = checkpoint.State()

    def run(self) -> TrainReport:
        if self.group:
            self.group.same("network, pictures, teacher or settings", self.who)
        if self.path:
            self.state = checkpoint.resume(self.path, self.who, self.model, self.optimizer, self.average) or self.state
            if self.group:
                self.group.same(f"{self.path}: epoch to go on from", self.state.epoch)
        self.begun = self.written = time.perf_counter()
        self.before = self.state.seconds
        self.resumed = self.state.epoch
        self.model.train()
        with _forked(self.device):
            for epoch in range(self.state.epoch, self.config.epochs):
                self._epoch(epoch)
                self._test(epoch)
                self._save(epoch + 1)
        if self.average:
            self.average.swap()
        seconds = self.before + time.perf_counter() - self.begun
        done = self.count * self.config.epochs
        return TrainReport(
            self.state.losses, self.steps * self.config.epochs, seconds, done / max(seconds, 1e-9), self.state.tested
        )

    def _epoch(self, epoch: int) -> None:
        torch.manual_seed(_dropout_seed(self.config.seed, epoch, self.group.rank if self.group else 0))
        order = self.objective.order
        index = order(epoch) if order else epoch_order(self.config.seed, epoch, self.count)
        losses = torch.full((self.steps, *self.shape), float("nan"), device=self.device)
        if self.config.reset_momentum and epoch in self.config.milestones:
            reset_momentum(self.optimizer)
        watch, seen = 1 if self.device.type == "cpu" else WATCH, 0
        compiled = _compiled(self.model) if self.options.compile else nullcontext()
        with explained(self.config.batch_size, self.device), compiled:
            for number, part in enumerate(index.split(self.config.batch_size)):
                set_rate(self.optimizer, step_rate(self.config, epoch, number, self.steps))
                losses[number] = self.step(self.objective.prepare(Batch(part, epoch, number)))
                if self.average:
                    self.average.update()
                if (number + 1) % watch == 0 or number + 1 == self.steps:
                    if self.group:
                        self.group.average(losses[seen : number + 1])
                    seen = number + 1
                    self._look(losses[: number + 1], epoch)
        self.state.losses.append(losses.mean(0).tolist())

    def _look(self, losses: Tensor, epoch: int) -> None:
        bad = (~torch.isfinite(losses)).nonzero()
        if len(bad):
            step, *student = bad[0].tolist()
            whose = f" of student {student[0] + 1}" if student else ""
            self._stop(f"the loss{whose} became {float(losses[tuple(bad[0])])}", epoch, step)
        if self.on_progress is None:
            return
        number, config = len(losses) - 1, self.config
        done = epoch * self.count + min((number + 1) * config.batch_size, self.count)
        seconds = time.perf_counter() - self.begun
        rate = (done - self.resumed * self.count) / max(seconds, 1e-9)
        left = (config.epochs * self.count - done) / rate if rate > 0 else math.inf
        self.on_progress(
            TrainProgress(
                epoch + 1, config.epochs, number + 1, self.steps, float(losses[-1].mean()),
                step_rate(config, epoch, number, self.steps), self.before + seconds, rate, left,
            )
        )  # fmt: skip

    def _stop(self, what: str, epoch: int, step: int) -> None:
        rate = step_rate(self.config, epoch, step, self.steps)
        kept = ""
        if self.path and self.path.exists():
            kept = f"; {self.path} keeps the weights of the last good checkpoint"
        raise NonFiniteLossError(
            f"{what} in epoch {epoch + 1}, step {step + 1}, at learning rate {rate:.3g}; lower lr, or look for NaN in "
            f"the images or the initial weights{kept}"
        )

    def _test(self, epoch: int) -> None:
        wanted = self.options.test_epochs
        if self.options.validate is None or epoch + 1 not in ({self.config.epochs} if wanted is None else wanted):
            return
        self.model.eval()
        with self.average.shown() if self.average else nullcontext():
            top1 = self.options.validate(self.model)
        self.model.train()
        self.state.tested.append(Tested(epoch + 1, float(top1)))

    def _save(self, epoch: int) -> None:
        self.state.epoch = epoch
        now = time.perf_counter()
        due = now - self.written >= self.options.checkpoint_seconds or epoch == self.config.epochs
        if self.path is None or not due:
            return
        if not checkpoint.finite(self.model):
            self._stop("weights became NaN or infinite", epoch - 1, self.steps - 1)
        self.state.seconds = self.before + now - self.begun
        if self.group and not self.group.leads:
            return
        checkpoint.save(self.path, self.who, self.model, self.optimizer, self.average, self.state)
        self.written = time.perf_counter()


def _dropout_seed(seed: int, epoch: int, rank: int) -> int:
    """A function of these alone, so that training can go on from any epoch."""
    low, high = stream_key(seed, f"train/{epoch}" + (f"/{rank}" if rank else ""))
    return (high & 0x7FFFFFFF) << 32 | low


@contextmanager
def _forked(device: torch.device) -> Iterator[None]:
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def _compiled(model: nn.Module) -> Iterator[None]:
    """The model's calls run compiled code within; what was compiled is kept on the model for the next time."""
    call = model.__dict__.get("_ddfast_compiled")
    if call is None:
        model.compile(dynamic=False)
        call = model.__dict__["_ddfast_compiled"] = model._compiled_call_impl
    model._compiled_call_impl = call
    try:
        yield
    finally:
        model._compiled_call_impl = None
