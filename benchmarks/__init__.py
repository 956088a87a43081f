"""Benchmarks of ddfast against what a user would otherwise run, in the same process and on the same data."""
