"""Expert trajectories: many plain trainings of one small network, snapshotted after every epoch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import Ledger, Progress, RunError, Task, open_ledger, seeds
from ddfast.runs.seeds import stream_key
from ddfast.store import set_fingerprint
from ddfast.train.adjoint.step import PRECISIONS, float32
from ddfast.train.adjoint.unroll import make_step
from ddfast.train.config import NonFiniteLossError
from ddfast.train.dsa import STRATEGY, apply_dsa, draw_dsa
from ddfast.train.trajectories import EXPERTS_FILE, TrajectoryStore

__all__ = ["ExpertConfig", "expert_identity", "train_experts", "trained"]


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
        if not self.lr > 0:
            raise ValueError(f"lr: got {self.lr!r}, expected a positive number")


def expert_identity(net: FlatConvNet, config: ExpertConfig, images: Tensor, pictures: str) -> dict[str, Any]:
    """What decides experts, as JSON values; ``pictures`` is a fingerprint of the pictures as bytes.

    Not of the images themselves: whitening differs in the last bits from machine to machine.
    """
    return {"net": asdict(net), "training": asdict(config), "images": len(images), "pictures": pictures}


def train_experts(
    net: FlatConvNet,
    images: Tensor,
    labels: Tensor,
    config: ExpertConfig,
    out: Path,
    *,
    starts: Tensor | None = None,
    pictures: str = "",
    info: dict[str, Any] | None = None,
    device: str | torch.device = "cpu",
    quiet: bool = False,
    on_expert: Callable[[int], None] | None = None,
) -> TrajectoryStore:
    """Trains experts that are not trained yet; call it again after any interruption.

    Each expert is a task of a ledger in ``out``, so that several processes can share the work, and goes on from its
    last snapshot.

    Args:
        net: the architecture.
        images: float32 [N, c, H, W], normalised or whitened.
        labels: int64 [N].
        config: the recipe.
        out: folder for ``experts.safetensors`` and the ledger.
        starts: float32 [experts, P], initial weights of each expert; None for fresh ones. Part of what decides them.
        pictures: fingerprint of the pictures before normalisation, such as `ddfast.store.set_fingerprint`; "" for that
            of ``images``, which ties the experts to one kind of machine where they were whitened.
        info: further JSON values to keep and compare, such as the space of the images.
        device: where to train.
        quiet: no progress.
        on_expert: called with the number of each finished expert.

    Returns:
        The store, complete.

    Raises:
        ValueError: ``starts`` of another shape.
        NonFiniteLossError: an expert diverged.
        RunError: ``out`` holds other experts, or the disk is full.
    """
    who = {**expert_identity(net, config, images, pictures or set_fingerprint(images, labels)), **(info or {})}
    if starts is not None:
        if starts.shape != (config.experts, net.size):
            expected = [config.experts, net.size]
            raise ValueError(f"starts: got shape {list(starts.shape)}, expected {expected}, a theta for each expert")
        starts = starts.detach().cpu().float()
        who["starts"] = hashlib.sha256(starts.numpy().astype("<f4").tobytes()).hexdigest()
    tasks = [f"expert-{number:05d}" for number in range(config.experts)]
    ledger = open_ledger(out, tasks, who, resume=True, outputs=(EXPERTS_FILE,))
    steps = config.experts * config.epochs
    with ledger:
        store = TrajectoryStore.create(out / EXPERTS_FILE, config.experts, config.epochs, net.size, who)
        for number, task in enumerate(tasks):
            if ledger.completed(task) and store.epochs_done(number) < config.epochs:
                ledger.forget(task)  # the store was removed since
        done = sum(max(store.epochs_done(number), 0) for number in range(config.experts))
        mode = "quiet" if quiet else "auto"
        with Progress(steps, done=done, unit="epochs", title=f"training {config.experts} experts", mode=mode) as shown:
            _train_all(ledger, store, net, images.to(device), labels.to(device), config, starts, shown, on_expert)
        ledger.finish()
    return store


def _train_all(
    ledger: Ledger, store: TrajectoryStore, net: FlatConvNet, images: Tensor, labels: Tensor, config: ExpertConfig,
    starts: Tensor | None, shown: Progress, on_expert: Callable[[int], None] | None,
) -> None:  # fmt: skip
    for task in ledger.claims():
        with task:
            number = int(task.id.rpartition("-")[2])
            if store.epochs_done(number) < 0:
                store.write(number, 0, _fresh(net, config, number) if starts is None else starts[number])
            loss = _train_one(task, store, number, net, images, labels, config, shown)
            task.complete({"loss": loss})
            if on_expert:
                on_expert(number)


def _train_one(
    task: Task, store: TrajectoryStore, number: int, net: FlatConvNet, images: Tensor, labels: Tensor,
    config: ExpertConfig, shown: Progress,
) -> float | None:  # fmt: skip
    """All epochs of one expert that are missing; the last epoch's mean loss, None where none was missing."""
    stream = f"expert {number}"
    first = store.epochs_done(number)
    theta = store.snapshot(number, first).to(images.device)
    step = make_step(net, config.precision)
    mean: float | None = None
    for epoch in range(first, config.epochs):
        order = torch.from_numpy(seeds.permutation(config.seed, stream, epoch, len(images))).to(images.device)
        total = torch.zeros((), dtype=theta.dtype, device=theta.device)
        parts = order.split(config.batch_size)
        for place, index in enumerate(parts):
            x = images[index]
            if config.dsa:
                size = (net.input_size, net.input_size)
                x = apply_dsa(x, draw_dsa(config.dsa, len(index), size, seed=config.seed, epoch=epoch, step=place,
                                          stream=f"{stream}/dsa"))  # fmt: skip
            with float32(config.precision):
                loss, gradient, _ = step.first(theta, x, labels[index])
            assert gradient is not None
            theta = theta.sub_(gradient, alpha=config.lr)
            total += loss
        mean = float(total) / len(parts)
        if not math.isfinite(mean) or not bool(torch.isfinite(theta).all()):
            raise NonFiniteLossError(
                f"expert {number}: the loss became {mean} in epoch {epoch + 1} at learning rate {config.lr}; snapshots "
                "up to the epoch before are kept. Lower the learning rate"
            )
        if task.lost:
            raise RunError(
                f"{store.path}: another worker has taken over expert {number}, since this one stood still too long; "
                "start this worker again"
            )
        store.write(number, epoch + 1, theta)
        shown.update(1, f"expert {number}, loss {mean:.3f}")
    return mean


def _fresh(net: FlatConvNet, config: ExpertConfig, number: int) -> Tensor:
    low, high = stream_key(config.seed, f"expert {number}")
    return net.init(torch.Generator().manual_seed((high & 0x7FFFFFFF) << 32 | low))


def trained(out: str | Path, net: FlatConvNet) -> TrajectoryStore:
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
