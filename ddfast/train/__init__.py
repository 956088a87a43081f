"""Training: supervised training of observers, students on distilled sets, schedules and batched augmentation."""

from __future__ import annotations

from ddfast.train.loop import (
    LoopOptions,
    NonFiniteLossError,
    Tested,
    TrainConfig,
    TrainMemoryError,
    TrainProgress,
    TrainReport,
)
from ddfast.train.many import train_many
from ddfast.train.presets import preset
from ddfast.train.staged import Lesson, stage_parts, train_in_stages
from ddfast.train.student import StudentConfig, train_student
from ddfast.train.supervised import accuracy, fit, predict, streamed_accuracy

__all__ = [
    "Lesson",
    "LoopOptions",
    "NonFiniteLossError",
    "StudentConfig",
    "Tested",
    "TrainConfig",
    "TrainMemoryError",
    "TrainProgress",
    "TrainReport",
    "accuracy",
    "fit",
    "predict",
    "preset",
    "stage_parts",
    "streamed_accuracy",
    "train_in_stages",
    "train_many",
    "train_student",
]
