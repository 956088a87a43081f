"""Students of pictures that are drawn anew: samples of a latent distribution (D3: Qin et al., arXiv 2403.00999).

An epoch of D3's students holds the decoded mean of every prior and a fresh sample of it. Students of other pictures
that are to be compared with them see each picture as often.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast.train import loop
from ddfast.train.dsa import apply_dsa, draw_dsa
from ddfast.train.latent import Distribution
from ddfast.train.loop import Batch, LoopOptions, Objective, OnProgress, TrainReport
from ddfast.train.student import StudentConfig, check_ready
from ddfast.train.supervised import to_best_format

FRESH = ("epoch", "batch", "none")


class Pictures(Protocol):
    """What an epoch consists of: ``rows`` int64 [m], the stored item that each of its pictures is of."""

    rows: Tensor

    def __call__(self, batch: Batch) -> Tensor:
        """Model input float32 [b, 3, S, S]; a function of the batch's numbers alone."""

    def digest(self) -> str:
        """SHA-256 of what the pictures come from."""


class FixedPictures:
    """The same pictures in every epoch, ``times`` each.

    Args:
        images: model input, float32 [N, 3, S, S].
        times: how often an epoch holds each.
    """

    def __init__(self, images: Tensor, times: int = 1) -> None:
        self.images = images
        self.rows = torch.arange(len(images)).repeat(times)

    def __call__(self, batch: Batch) -> Tensor:
        """See `Pictures`."""
        return self.images[self.rows[batch.index].to(self.images.device, non_blocking=True)]

    def digest(self) -> str:
        """See `Pictures`."""
        return _sha256(self.images, self.rows)


class SampledPictures:
    """Pictures decoded from a distribution, on its device.

    Args:
        distribution: N priors.
        seed: of the samples, which are a function of (seed, epoch), or with fresh="batch" of (seed, epoch, step).
        fresh: "epoch": an epoch holds the N means, decoded once, and a sample of each prior drawn for that epoch, as in
            the paper; "batch": two samples of each prior and no means, every batch from a draw of its own, which costs
            N decodings a batch; "none": the N means alone.

    Attributes:
        decoded: pictures decoded so far.
        seconds: that this took; measured with the device's work done.

    Raises:
        ValueError: another ``fresh``.
    """

    def __init__(self, distribution: Distribution, *, seed: int, fresh: str = "epoch") -> None:
        if fresh not in FRESH:
            raise ValueError(f"fresh: got {fresh!r}, expected one of {', '.join(FRESH)}")
        self.distribution, self.seed, self.fresh = distribution, seed, fresh
        self.decoded, self.seconds = 0, 0.0
        self.rows = torch.arange(len(distribution)).repeat(1 if fresh == "none" else 2)
        self._epoch: int | None = None
        self._pool = torch.empty(0)
        if fresh != "batch":
            self._means = self._timed(None, None)

    def __call__(self, batch: Batch) -> Tensor:
        """See `Pictures`."""
        if self.fresh == "none":
            self._pool = self._means
        elif self.fresh == "batch":
            drawn = self._timed(batch.epoch, batch.step)
            return drawn[self.rows[batch.index].to(drawn.device, non_blocking=True)]
        elif self._epoch != batch.epoch:
            self._pool = torch.cat([self._means, self._timed(batch.epoch, None)])
            self._epoch = batch.epoch
        return self._pool[batch.index.to(self._pool.device, non_blocking=True)]

    def digest(self) -> str:
        """See `Pictures`."""
        tensors = self.distribution.tensors()
        return _sha256(*(tensors[name] for name in sorted(tensors))) + f" {self.fresh} {self.seed}"

    def _timed(self, epoch: int | None, step: int | None) -> Tensor:
        """The means, or with an epoch a sample of each prior."""
        begun = time.perf_counter()
        if epoch is None:
            drawn = self.distribution.means()
        else:
            drawn = self.distribution.samples(seed=self.seed, epoch=epoch, step=step)
        if drawn.is_cuda:
            torch.cuda.synchronize(drawn.device)
        self.seconds += time.perf_counter() - begun
        self.decoded += len(drawn)
        return drawn


def decodings(fresh: str, epochs: int, steps: int) -> int:
    """How often all priors are decoded in a training of ``epochs`` epochs of ``steps`` steps."""
    return {"epoch": 1 + epochs, "batch": epochs * steps, "none": 1}[fresh]


def train_on_drawn(
    pictures: Pictures,
    targets: Tensor,
    student: nn.Module,
    config: StudentConfig,
    *,
    on_progress: OnProgress | None = None,
    options: LoopOptions | None = None,
) -> TrainReport:
    """Train ``student`` in place on the cross-entropy of pictures drawn epoch by epoch, with ``config.dsa``.

    Order, samples and augmentations are functions of seed, epoch and step: stopped anywhere and called again with a new
    student and the same checkpoint, it ends in the same weights.

    Args:
        pictures: `SampledPictures` or `FixedPictures` on the student's device.
        targets: of each stored item, int64 [N], or probabilities float [N, C] (soft labels at temperature 1).
        student: maps float32 [n, 3, S, S] to logits [n, C].
        config: recipe without views (flip, shift, crops, CutMix).
        on_progress, options: as in ``train_student``.

    Raises:
        TypeError: targets of another dtype.
        ValueError: targets for another number of items, or a recipe with views.
        NonFiniteLossError, TrainMemoryError, RunError: as in ``ddfast.train.loop.run``.
    """
    check_ready(config, None)
    if config.idc or config.cutmix_share:
        raise ValueError(
            f"idc, cutmix_share: got {config.idc!r} and {config.cutmix_share!r}, expected neither: pictures that are "
            "drawn are augmented by dsa alone"
        )
    _check_targets(pictures, targets)
    device = next(student.parameters()).device
    targets, rows = targets.to(device), pictures.rows.to(device)
    layout = torch.channels_last if to_best_format(student) else torch.contiguous_format

    def prepare(batch: Batch) -> tuple[Tensor, ...]:
        x = pictures(batch).contiguous(memory_format=layout)
        if config.dsa:
            size = (x.shape[2], x.shape[3])
            draw = draw_dsa(config.dsa, len(x), size, seed=config.seed, epoch=batch.epoch, step=batch.step)
            x = apply_dsa(x, draw)
        return x, targets[rows[batch.index.to(device, non_blocking=True)]]

    objective = Objective(prepare, lambda x, y: F.cross_entropy(student(x).float(), y))
    options = options or LoopOptions()
    if options.checkpoint:
        who = {"pictures": pictures.digest(), "targets": _sha256(targets)}
        options = replace(options, identity={**who, **options.identity})
    return loop.run(student, len(rows), config, objective, on_progress, options)


def _check_targets(pictures: Pictures, targets: Tensor) -> None:
    soft = targets.ndim == 2
    if targets.is_floating_point() != soft or (not soft and targets.dtype != torch.int64):
        raise TypeError(
            f"targets: got {targets.dtype} {list(targets.shape)}, expected int64 [N] or probabilities float [N, C]"
        )
    count = int(pictures.rows.max()) + 1 if len(pictures.rows) else 0
    if len(targets) != count:
        raise ValueError(f"targets: got {len(targets)} for {count} items, expected one each")


def _sha256(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
