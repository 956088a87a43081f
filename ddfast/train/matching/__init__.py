"""Matching loops of the condensation methods: one object a method that moves distilled images step by step."""

from __future__ import annotations

from ddfast.train.matching.protocol import Matcher, MatchingData, Starts

__all__ = ["Matcher", "MatchingData", "Starts"]
