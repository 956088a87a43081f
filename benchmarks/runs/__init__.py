"""Benchmarks of `ddfast.runs`."""
