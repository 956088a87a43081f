"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# Of several test processes side by side each has its share of the cores, and so have the processes it starts: last bits
# depend on the number of threads.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())

# Shells start background jobs with Ctrl-C ignored, and children inherit that; some tests press Ctrl-C on children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real images and weights; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("DDFAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "imagenet20").is_dir():
        pytest.skip(f"real images and weights are not at {folder} (set DDFAST_TEST_DATA)")
    return folder


@pytest.fixture
def poisoned_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills every freshly allocated tensor with NaN (or the largest integer), so that unwritten outputs show."""

    def poisoned(plain: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def empty(*args: object, **kwargs: object) -> torch.Tensor:
            out = plain(*args, **kwargs)
            if out.device.type == "meta":
                return out
            return out.fill_(float("nan") if out.dtype.is_floating_point else torch.iinfo(out.dtype).max)

        return empty

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """With ``DDFAST_TEST_NO_SKIPS=1`` a run that skipped something fails: for CI, where all packages are there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("DDFAST_TEST_NO_SKIPS", "0") in ("", "0") or reporter is None:
        return
    if skipped := reporter.stats.get("skipped", []):
        reporter.write_line(f"\nDDFAST_TEST_NO_SKIPS: {len(skipped)} skipped, expected none", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
