"""Trains a small net with checkpoints and kills itself after a step: ``CHECKPOINT OPTIMIZER EMA EPOCH STEP``."""

from __future__ import annotations

import os
import signal
import sys

import torch
from torch import nn

from ddfast.train import TrainConfig, TrainProgress
from ddfast.train.loop import LoopOptions, Objective, TrainReport, run

COUNT, BATCH = 22, 5


def net() -> nn.Module:
    torch.manual_seed(0)
    stem = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3)]
    return nn.Sequential(*stem, nn.Flatten(), nn.Linear(6 * 36, 3))


def objective(model: nn.Module) -> Objective:
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.randn(COUNT, 3, 6, 6, generator=generator), torch.arange(COUNT) % 3

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y)

    return Objective(lambda batch: (images[batch.index], labels[batch.index]), loss)


def train(checkpoint: str | None, optimizer: str, ema: float, kill: tuple[int, int] | None = None) -> tuple:
    """Model and report."""
    model = net()
    config = TrainConfig(epochs=6, batch_size=BATCH, optimizer=optimizer, lr=0.02, seed=3, ema=ema)

    def watch(state: TrainProgress) -> None:
        if kill == (state.epoch, state.step):
            os.kill(os.getpid(), signal.SIGKILL)

    options = LoopOptions(checkpoint=checkpoint, checkpoint_seconds=0.0)
    report: TrainReport = run(model, COUNT, config, objective(model), watch, options)
    return model, report


if __name__ == "__main__":
    torch.set_num_threads(1)
    path, optimizer, ema, epoch, step = sys.argv[1:]
    train(path, optimizer, float(ema), (int(epoch), int(step)))
