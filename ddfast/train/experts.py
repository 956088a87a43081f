"""Expert trajectories: many plain trainings of one small network, snapshotted after every epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.data.resident import Pictures, Resident
from ddfast.nets.flat_net import FlatNet
from ddfast.runs import Ledger, Progress, RunError, Task, Worker, identify_worker, open_ledger
from ddfast.runs.sharing import require_wanted, teller
from ddfast.store import set_fingerprint
from ddfast.store.provenance import normalization_to_json
from ddfast.train.adjoint.many_step import ManyStep, fastest_way
from ddfast.train.adjoint.step import PRECISIONS, float32
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import STRATEGY, parse_strategy
from ddfast.train.flat_student import fresh_theta
from ddfast.train.forgetting import FORGETTING_FILE, STATES_FOLDER, ForgettingCounter, ForgettingStates
from ddfast.train.passes import PassKey, batches
from ddfast.train.trajectories import EXPERTS_FILE, TrajectoryStore

__all__ = ["ExpertConfig", "expert_identity", "train_experts", "trained"]

TOGETHER = 20  # on a GPU at most
# of the first layer's planes of all of them: 10 GB a copy; indices of a tensor stay below 2**31
_NUMBERS = 2**31 // 3


@dataclass(frozen=True)
class ExpertConfig:
    """How experts are trained: MTT's plain SGD at a constant rate, which a student can imitate.

    ``dsa`` names the augmentations of which one is drawn a batch ("" for none); ``precision`` is that of convolutions
    and planes. Expert k depends on ``seed`` and k alone.
    """

    experts: int = 100
    epochs: int = 50
    batch_size: int = 256
    lr: float = 0.01
    dsa: str = STRATEGY
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("experts", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected 1 or more")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision: got {self.precision!r}, expected one of {', '.join(PRECISIONS)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr: got {self.lr!r}, expected a positive number")
        if self.dsa:
            parse_strategy(self.dsa)


def expert_identity(net: FlatNet, config: ExpertConfig, images: Pictures, pictures: str) -> dict[str, Any]:
    """What decides experts, as JSON values; ``pictures`` is a fingerprint of the pictures as bytes.

    Not of the images themselves: whitening differs in the last bits from machine to machine. The normalisation of
    bytes is part of it.
    """
    who = {"net": asdict(net), "training": asdict(config), "images": len(images), "pictures": pictures}
    if isinstance(images, Resident):
        who["normalization"] = normalization_to_json(images.normalization)
    return who


def train_experts(
    net: FlatNet,
    images: Pictures,
    labels: Tensor,
    config: ExpertConfig,
    out: Path,
    *,
    starts: Tensor | None = None,
    pictures: str = "",
    info: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    together: int | None = None,
    forgetting: bool = False,
    quiet: bool = False,
    on_expert: Callable[[int], None] | None = None,
    worker: Worker | None = None,
    wanted: Callable[[], bool] | None = None,
) -> TrajectoryStore:
    """Trains experts that are not trained yet; call it again after any interruption.

    Each expert is a task of a ledger in ``out``, so that several processes can share the work, and goes on from its
    last snapshot. Its numbers do not depend on what else is trained beside it, on GPUs up to rounding, nor on who
    trains it.

    Args:
        net: the architecture.
        images: float32 [N, c, H, W], normalised or whitened; or bytes that give such rows.
        labels: int64 [N].
        config: the recipe.
        out: folder for ``experts.safetensors`` and the ledger.
        starts: float32 [experts, P], initial weights of each expert; None for fresh ones. Part of what decides them.
        pictures: fingerprint of the pictures before normalisation, such as `ddfast.store.set_fingerprint`; "" for that
            of ``images``, which ties the experts to one kind of machine where they were whitened.
        info: further JSON values to keep and compare, such as the space of the images.
        device: where to train.
        together: experts trained side by side; None for 1 on a CPU, where more are no faster, and up to 20 on a GPU.
        forgetting: also count forgetting events, for `ddfast.train.forgetting.ForgettingScores`.
        quiet: no progress.
        on_expert: called with the number of each finished expert.
        worker: who this is among those that share the work; None for what the launcher's variables say.
        wanted: asked before each epoch; once False the experts are not needed any more, and may be gone.

    Returns:
        The store, complete.

    Raises:
        ValueError: ``starts`` of another shape, or ``together`` below 1.
        NonFiniteLossError: an expert diverged.
        RunError: ``out`` holds other experts, or ones trained without ``forgetting`` where it is asked for, or the disk
            is full.
        ddfast.runs.sharing.Superseded: ``wanted`` said so.
    """
    me = worker or identify_worker()
    who = {**expert_identity(net, config, images, pictures or _fingerprint(images, labels)), **(info or {})}
    if starts is not None:
        if starts.shape != (config.experts, net.size):
            expected = [config.experts, net.size]
            raise ValueError(f"starts: got shape {list(starts.shape)}, expected {expected}, a theta for each expert")
        starts = starts.detach().cpu().float()
        who["starts"] = hashlib.sha256(starts.numpy().astype("<f4").tobytes()).hexdigest()
    if together is not None and together < 1:
        raise ValueError(f"together: got {together!r}, expected 1 or more")
    if not 0 < len(images) == len(labels):
        raise ValueError(f"labels: got {len(labels)} for {len(images)} images, expected one each and at least one")
    step = ManyStep(net, precision=config.precision)  # refuses what it cannot do before there is a folder
    tasks = [f"expert-{number:05d}" for number in range(config.experts)]
    outputs = (EXPERTS_FILE, FORGETTING_FILE, STATES_FOLDER)
    with open_ledger(out, tasks, who, worker=me, resume=True, outputs=outputs) as ledger:
        store = TrajectoryStore.create(out / EXPERTS_FILE, config.experts, config.epochs, net.size, who)
        require_wanted(out, wanted)  # before anything is said to be missing
        states = ForgettingStates(out, who, len(images), config.epochs) if forgetting else None
        counting = None if states is None or states.merged else states
        for number, task in enumerate(tasks):
            if ledger.completed(task) and store.epochs_done(number) < config.epochs:
                ledger.forget(task)  # the store was removed since
            elif counting is not None and ledger.completed(task):
                counting.check(number)
        done = sum(max(store.epochs_done(number), 0) for number in range(config.experts))
        mode = "quiet" if quiet or ledger.finished() else "auto"
        title = f"training {config.experts} experts, {config.epochs} epochs each"
        with Progress(config.experts * config.epochs, done=done, unit="epochs", title=title, mode=mode) as shown:
            training = _Training(
                step, images.to(device), labels.to(device), config, starts, store, counting, shown, wanted,
                teller(quiet),
            )  # fmt: skip
            training.run(ledger, together or _together(net, training.images.device, config, me.count), on_expert)
        if states is not None:
            states.merge(config.experts)
        ledger.finish()
    return store


def _fingerprint(images: Pictures, labels: Tensor) -> str:
    return set_fingerprint(images.pixels if isinstance(images, Resident) else images, labels)


def _together(net: FlatNet, device: torch.device, config: ExpertConfig, workers: int = 1) -> int:
    """As many as are faster side by side, but no more than fit, or than each of the launched workers gets."""
    if fastest_way(net, device) == "loop":
        return 1
    planes = config.batch_size * getattr(net, "width", 128) * net.input_size**2
    return max(1, min(TOGETHER, _NUMBERS // planes, -(-config.experts // workers)))


@dataclass
class _Running:
    """An expert that is being trained: ``epoch`` passes are done."""

    task: Task
    number: int
    epoch: int
    theta: Tensor
    counter: ForgettingCounter | None

    @property
    def key(self) -> PassKey:
        return PassKey(f"expert {self.number}", f"expert {self.number}/dsa", self.epoch)


@dataclass
class _Training:
    step: ManyStep
    images: Pictures
    labels: Tensor
    config: ExpertConfig
    starts: Tensor | None
    store: TrajectoryStore
    states: ForgettingStates | None
    shown: Progress
    wanted: Callable[[], bool] | None = None
    on_wait: Callable[[str], None] | None = None

    def run(self, ledger: Ledger, together: int, on_expert: Callable[[int], None] | None) -> None:
        """Takes experts until none is left; a finished one's place goes to the next."""
        with ExitStack() as held:
            running: list[_Running] = []
            for first in ledger.claims(wanted=self.wanted, on_wait=self.on_wait):
                running.append(self._begin(held.enter_context(first)))
                while running:
                    while len(running) < together and (task := ledger.claim_next()) is not None:
                        running.append(self._begin(held.enter_context(task)))
                    left = [each for each in running if each.epoch < self.config.epochs]
                    for each in running:
                        if each.epoch >= self.config.epochs:
                            each.task.complete()  # a record of its loss would be lost with a worker killed here
                            if on_expert:
                                on_expert(each.number)
                    running = left
                    if running:
                        require_wanted(self.store.path, self.wanted)
                        self._pass(running)
        if not ledger.finished():
            require_wanted(self.store.path, self.wanted)

    def _begin(self, task: Task) -> _Running:
        number = int(task.id.rpartition("-")[2])
        self.store.begin(number, task)
        if self.store.epochs_done(number) < 0:
            if self.starts is None:
                begun = fresh_theta(self.step.net, self.config.seed, f"expert {number}")
            else:
                begun = self.starts[number]
            self.store.write(number, 0, begun)
        epoch, device = self.store.epochs_done(number), self.images.device
        counter = None if self.states is None else self.states.begin(number, epoch, device)
        return _Running(task, number, epoch, self.store.snapshot(number, epoch).to(device), counter)

    def _pass(self, running: list[_Running]) -> None:
        """An epoch of each, and its snapshot."""
        config = self.config
        thetas = torch.stack([each.theta for each in running])
        totals = torch.zeros(len(running), dtype=thetas.dtype, device=thetas.device)
        keys = [each.key for each in running]
        for batch in batches(self.images, self.labels, keys, config.batch_size, config.dsa, config.seed):
            with float32(config.precision):
                first = self.step.first(thetas, batch.x, batch.y)
            thetas.sub_(first.gradients, alpha=config.lr)
            totals += first.losses
            for each, rows, predicted, y in zip(running, batch.rows, first.probabilities, batch.y, strict=True):
                if each.counter is not None:
                    each.counter.see(rows, predicted.argmax(1) == y)
        means = (totals / -(-len(self.images) // config.batch_size)).tolist()
        finite = torch.isfinite(thetas).all(1).tolist()
        for each, theta, mean, sound in zip(running, thetas, means, finite, strict=True):
            if sound and math.isfinite(mean):
                self._keep(each, theta, mean)
        for each, mean, sound in zip(running, means, finite, strict=True):
            if not (sound and math.isfinite(mean)):
                for other in running:
                    if other is not each:
                        other.task.release()  # not its failure
                raise NonFiniteLossError(
                    f"expert {each.number}: the loss became {mean} in epoch {each.epoch + 1} at learning rate "
                    f"{config.lr}; snapshots up to the epoch before are kept. Lower the learning rate"
                )

    def _keep(self, each: _Running, theta: Tensor, mean: float) -> None:
        if each.task.lost or self.store.epochs_done(each.number) != each.epoch:
            raise RunError(
                f"{self.store.path}: another worker has taken over expert {each.number}, since this one stood still "
                "too long; start this worker again"
            )
        each.theta, each.epoch = theta, each.epoch + 1
        if self.states is not None and each.counter is not None:
            self.states.save(each.number, each.epoch, each.counter)
        self.store.write(each.number, each.epoch, theta)
        self.shown.update(1, f"expert {each.number}, loss {mean:.3f}")


def trained(out: str | Path, net: FlatNet) -> TrajectoryStore:
    """Finished experts of an architecture.

    Raises:
        FileNotFoundError: no experts there.
        RunError: they are of another architecture, or not finished; the message names both.
    """
    store = TrajectoryStore.open(out)
    there = store.info.get("net")
    if there != asdict(net) or store.shape[2] != net.size:
        raise RunError(f"{store.path}: holds experts of {there}, expected {asdict(net)}; train or import fitting ones")
    missing = [number for number in range(len(store)) if store.epochs_done(number) < store.epochs]
    if missing:
        raise RunError(f"{store.path}: {len(missing)} of {len(store)} experts are not finished; train them first")
    return store
