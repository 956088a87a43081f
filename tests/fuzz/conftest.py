"""``pytest tests/fuzz --fuzz-minutes 10`` runs each fuzzer for ten minutes; without it a few fixed cases are tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.fuzz_harness import Child, Fuzzer

collect_ignore = ["corpus"]  # data, with whatever names


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-minutes", type=float, default=0.0, help="run each fuzzer for so long with other cases")


@pytest.fixture(scope="session")
def child() -> Iterator[Child]:
    process = Child()
    yield process
    process.stop()


@pytest.fixture
def fuzzer(request: pytest.FixtureRequest, child: Child, tmp_path: Path) -> Fuzzer:
    place = tmp_path / getattr(request.node, "originalname", request.node.name)
    place.mkdir()
    return Fuzzer(place, child, request.config.getoption("--fuzz-minutes"))
