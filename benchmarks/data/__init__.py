"""Benchmarks of decoding and cropping."""
