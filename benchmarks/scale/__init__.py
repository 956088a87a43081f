"""Benchmarks of several workers on one run."""
