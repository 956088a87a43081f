"""What a folder holds, in plain words: a distilled set, stored soft labels, or a set written for other programs."""

from __future__ import annotations

from ddfast.evaluation.explain.explanation import Explanation
from ddfast.evaluation.explain.folders import explain

__all__ = ["Explanation", "explain"]
