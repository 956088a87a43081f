"""Restartable runs: counter-based seeds, the task ledger, worker identity, progress."""
