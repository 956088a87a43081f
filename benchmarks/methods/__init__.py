"""Benchmarks of whole distillation methods."""
