"""Benchmarks: ``pytest benchmarks --benchmark-enable --bench-size full --bench-out benchmarks/results``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["benchmarks.case"]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect bench_*.py in folders too; files named on the command line are collected anyway."""
    if file_path.suffix == ".py" and file_path.stem.startswith("bench_") and not parent.session.isinitpath(file_path):
        module: pytest.Module = pytest.Module.from_parent(parent, path=file_path)
        return module
    return None


@pytest.fixture(scope="session")
def imagenet20() -> Path:
    """Train folder of the 20 ImageNet classes; benchmarks that need it are skipped where it is absent."""
    data = Path(os.environ.get("DDFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    folder = data / "imagenet20" / "train"
    if not folder.is_dir():
        pytest.skip(f"real images are not at {folder} (set DDFAST_TEST_DATA)")
    return folder
