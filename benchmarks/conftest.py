"""Options and data of the benchmarks: ``pytest benchmarks/methods --benchmark-enable --bench-size full``."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SIZES = ("smoke", "medium", "full")
_lines: list[str] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--bench-size",
        choices=SIZES,
        default=os.environ.get("DDFAST_BENCH_SIZE", "smoke"),
        help="how much to run (default: smoke, or DDFAST_BENCH_SIZE)",
    )


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Collect bench_*.py in folders too; files named on the command line are collected anyway."""
    if file_path.suffix == ".py" and file_path.stem.startswith("bench_") and not parent.session.isinitpath(file_path):
        module: pytest.Module = pytest.Module.from_parent(parent, path=file_path)
        return module
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _lines:
        terminalreporter.section("against the baselines")
        for line in _lines:
            terminalreporter.write_line(line)


@pytest.fixture
def report_line() -> object:
    """Call it with a line for the summary at the end."""
    return _lines.append


@pytest.fixture(scope="session")
def bench_size(request: pytest.FixtureRequest) -> str:
    """``smoke``, ``medium`` or ``full``."""
    return str(request.config.getoption("--bench-size"))


@pytest.fixture(scope="session")
def imagenet20() -> Path:
    """Train folder of the 20 ImageNet classes; benchmarks that need it are skipped where it is absent."""
    data = Path(os.environ.get("DDFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    folder = data / "imagenet20" / "train"
    if not folder.is_dir():
        pytest.skip(f"real images are not at {folder} (set DDFAST_TEST_DATA)")
    return folder
