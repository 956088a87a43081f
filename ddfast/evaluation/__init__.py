"""Honest evaluation of distilled sets: students, controls, storage, cost, and a report."""

from __future__ import annotations

from ddfast.evaluation.api import Evaluation, evaluate
from ddfast.evaluation.incremental import Continual, ContinualConfig, continual
from ddfast.evaluation.protocols import EvaluationConfig
from ddfast.evaluation.schema import read_report, validate_report
from ddfast.evaluation.scores import augmentation_robust_score, label_robust_score

__all__ = [
    "Continual",
    "ContinualConfig",
    "Evaluation",
    "EvaluationConfig",
    "augmentation_robust_score",
    "continual",
    "evaluate",
    "label_robust_score",
    "read_report",
    "validate_report",
]
