"""Benchmarks of the observer."""
