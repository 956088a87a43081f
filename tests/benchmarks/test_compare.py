"""Two revisions of a temporary clone: equal ones pass, a deliberately slowed op is caught, nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.compare import instructions, ratios
from benchmarks.compare.ratios import Measured, interval, measure
from benchmarks.compare.worktrees import checkouts

ROOT = Path(__file__).resolve().parents[2]
SLOWED = """

_once = crop_score


def crop_score(*args, **kwargs):  # type: ignore[no-untyped-def,no-redef]
    for _ in range(9):
        _once(*args, **kwargs)
    return _once(*args, **kwargs)
"""


def git(repo: Path, *arguments: str) -> str:
    who = ["-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(repo), *who, *arguments], capture_output=True, text=True, check=True).stdout


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.compare", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``slow`` computes crop_score ten times, which no noise hides, and has another case less than ``good``."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not in a git repository")
    repo = tmp_path_factory.mktemp("compare") / "repo"
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(repo))
    git(repo, "checkout", "--quiet", "-B", "good")
    git(repo, "checkout", "--quiet", "-b", "slow")
    with (repo / "ddfast/ops/crop_score/__init__.py").open("a") as file:
        file.write(SLOWED)
    with (repo / "ddfast/ops/__init__.py").open("a") as file:
        file.write("\ndel mosaic\n")
    git(repo, "commit", "--quiet", "-am", "crop_score ten times, no mosaic")
    return repo


def test_the_same_revision_passes(clone: Path) -> None:
    noise = ("--rounds", 7, "--threshold", 3)
    done = compare("good", "good", "--repo", clone, "--no-native", *noise, "--cases", "crop_score_10", "mosaic")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "crop_score_10" in done.stdout
    assert "SLOWER" not in done.stdout or "not confirmed" in done.stdout


def test_a_slowed_op_is_caught_and_a_missing_one_listed(clone: Path) -> None:
    cases = ("crop_score_1000", "class_topk_long", "mosaic")
    done = compare("good", "slow", "--repo", clone, "--no-native", "--rounds", 7, "--cases", *cases)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.strip().endswith("slower: crop_score_1000")
    assert "HEAD slow lacks mosaic: " in done.stdout
    assert git(clone, "worktree", "list").count("\n") == 1


def test_an_unknown_revision_or_case_is_an_error(clone: Path) -> None:
    done = compare("good", "nowhere", "--repo", clone)
    assert done.returncode == 2
    assert "nowhere" in done.stderr
    assert compare("good", "--repo", clone, "--rounds", 2).returncode == 2
    assert compare().returncode == 2


def test_ctrl_c_leaves_nothing_behind(clone: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.compare", "good", "good", "--repo", str(clone), "--no-native"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("ddfast-compare-*/1/setup.py")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert not list(tmp_path.glob("ddfast-compare-*"))
    assert git(clone, "worktree", "list").count("\n") == 1


@pytest.mark.slow
def test_equal_sources_are_built_once(clone: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    with checkouts(clone, "good", "slow", native=True) as (base, head):
        first, second = base.modules()[0], head.modules()[0]
        assert first.read_bytes() == second.read_bytes()
        assert not (head.folder / "build").exists()
        assert instructions.unavailable(base, head)
        if shutil.which("valgrind"):
            once, again = (instructions.per_call(first, "crop_score") for _ in range(2))
            assert once == pytest.approx(again, rel=0.02)
            assert once > 20_000  # 20 rows of 1000 logits, eight at a time


class Steady:
    """A worker whose calls take given seconds, in turn."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.turn = seconds, 0

    def cpu_seconds(self, case: str, calls: int) -> float:
        self.turn += 1
        return calls * self.seconds[self.turn % len(self.seconds)]


def test_interval_of_the_median() -> None:
    assert interval(list(range(6))) == (0, 5)
    assert interval(list(range(15))) == (3, 11)  # 96.5 %; one further in on each side would be 88 %
    with pytest.raises(ValueError, match="too few"):
        interval([1.0] * 5)


def test_verdict_needs_size_and_certainty() -> None:
    slow = measure("op", Steady(1e-3), Steady(1.2e-3), 15)
    assert slow.ratio == pytest.approx(1.2)
    assert slow.slower(1.1)
    assert not slow.slower(1.3)
    noisy = measure("op", Steady(1e-3), Steady(0.8e-3, 1.5e-3), 15)
    assert not noisy.slower(1.1), "half of the rounds were faster"
    text = ratios.table([slow, Measured("other", 1, 1, 1, 1, 1)], "BASE a", "HEAD b", 1.1)
    assert text.count("SLOWER") == 1
