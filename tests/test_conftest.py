"""CI's demand that nothing is skipped where all packages are there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import pytest_sessionfinish


@pytest.mark.parametrize(
    ("variable", "skipped", "code"), [("1", 2, 1), ("1", 0, 0), ("0", 2, 0), ("", 2, 0), (None, 2, 0)]
)
def test_skips_fail_a_run_where_asked(
    variable: str | None, skipped: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DDFAST_TEST_NO_SKIPS", raising=False)
    if variable is not None:
        monkeypatch.setenv("DDFAST_TEST_NO_SKIPS", variable)
    said: list[str] = []
    reporter = SimpleNamespace(stats={"skipped": [None] * skipped}, write_line=lambda text, **_: said.append(text))
    manager = SimpleNamespace(get_plugin=lambda _: reporter)
    session: Any = SimpleNamespace(config=SimpleNamespace(pluginmanager=manager), exitstatus=0)
    pytest_sessionfinish(session)
    assert session.exitstatus == code
    assert bool(said) == bool(code)
