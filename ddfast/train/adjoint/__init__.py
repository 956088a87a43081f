"""Exact gradients through a student's training steps (trajectory matching), without a graph of all steps."""

from __future__ import annotations

from ddfast.train.adjoint.capture import MatchGraphs
from ddfast.train.adjoint.planes import PlaneStep
from ddfast.train.adjoint.step import AutogradStep, Second, Step
from ddfast.train.adjoint.unroll import InnerStep, Match, make_step, match_trajectory

__all__ = [
    "AutogradStep",
    "InnerStep",
    "Match",
    "MatchGraphs",
    "PlaneStep",
    "Second",
    "Step",
    "make_step",
    "match_trajectory",
]
