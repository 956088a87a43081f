"""Fixtures of the methods' tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from tests.methods.rded_case import small_net, write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes of 14 pictures."""
    return write_pictures(tmp_path_factory.mktemp("pictures") / "train", 4, 14)


@pytest.fixture
def net() -> nn.Module:
    return small_net()


@pytest.fixture
def make_pictures(tmp_path: Path) -> Callable[[int, int], Path]:
    def make(classes: int, each: int) -> Path:
        return write_pictures(tmp_path / "train", classes, each)

    return make
