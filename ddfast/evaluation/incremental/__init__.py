"""Class-incremental learning: what a distilled set is worth as the memory of a learner that meets classes in steps."""

from __future__ import annotations

from ddfast.evaluation.incremental.api import Continual, continual
from ddfast.evaluation.incremental.config import ContinualConfig
from ddfast.evaluation.incremental.report import markdown, read_continual, validate_continual

__all__ = ["Continual", "ContinualConfig", "continual", "markdown", "read_continual", "validate_continual"]
