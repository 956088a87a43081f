"""Where the C++ kernels are missing ddfast says so once, and ops run on the reference."""

from __future__ import annotations

import importlib
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ddfast import _machine, _native


@pytest.fixture
def no_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in the wheel of Python alone."""
    plain = importlib.import_module

    def absent(name: str, package: str | None = None) -> ModuleType:
        if name in {"ddfast._cpu", "ddfast._cuda"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return plain(name, package)

    monkeypatch.delenv("DDFAST_NATIVE", raising=False)
    monkeypatch.setattr(_native.importlib, "import_module", absent)
    monkeypatch.setattr(_native.importlib.util, "find_spec", lambda name: None)
    _native._load.cache_clear()
    yield
    _native._load.cache_clear()


@pytest.mark.parametrize(
    ("machine", "system", "words"),
    [
        ("aarch64", "Linux", "this is aarch64 Linux"),
        ("arm64", "Darwin", "this is arm64 Darwin"),
        ("x86_64", "Linux", ""),
    ],
)
def test_one_warning_says_what_is_used_instead(
    no_module: None, monkeypatch: pytest.MonkeyPatch, machine: str, system: str, words: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "system", lambda: system)
    with pytest.warns(RuntimeWarning, match="not built.*plain-torch reference.*DDFAST_NATIVE=0") as caught:
        assert [_native.cpu() for _ in range(3)] == [None] * 3
    assert len(caught) == 1
    reason = _native.why_missing("_cpu")
    assert reason.startswith("not built")
    assert words in reason
    assert ("x86_64 Linux" in reason) == bool(words)


def test_a_missing_cuda_module_is_no_news(no_module: None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _native.cuda() is None
    assert _native.why_missing("_cuda") == "not built"


def test_no_warning_where_the_kernels_are_switched_off(no_module: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DDFAST_NATIVE", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _native.cpu() is None
    assert "DDFAST_NATIVE=0" in _native.why_missing("_cpu")


def test_a_broken_module_is_not_called_missing(no_module: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native.importlib.util, "find_spec", lambda name: object())
    with pytest.warns(RuntimeWarning, match="cannot be loaded: No module named 'ddfast._cpu'"):
        assert _native.cpu() is None


def test_cores_are_counted_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_machine.os, "cpu_count", lambda: 5)
    monkeypatch.delattr(_machine.os, "sched_getaffinity", raising=False)
    assert _machine.cores() == 5
    monkeypatch.setattr(_machine.os, "sched_getaffinity", lambda pid: {0, 2}, raising=False)
    assert _machine.cores() == 2


def test_only_one_place_asks_for_the_affinity() -> None:
    package = Path(_machine.__file__).parent
    asking = [p.name for p in package.rglob("*.py") if "sched_getaffinity" in p.read_text(encoding="utf-8")]
    assert asking == ["_machine.py"], "macOS has no os.sched_getaffinity: use ddfast._machine.cores()"
