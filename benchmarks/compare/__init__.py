"""Two revisions side by side: ``python -m benchmarks.compare BASE HEAD``, see ``__main__``."""
