"""Temporary checkouts of two revisions with their native modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare.workers import CompareError

_NATIVE_INPUTS = ("csrc", "setup.py")


@dataclass(frozen=True)
class Checkout:
    """A revision on disk. ``native_key`` names the inputs of its build: equal keys, equal modules."""

    name: str
    commit: str
    folder: Path
    native_key: str

    def modules(self) -> list[Path]:
        """The built native modules."""
        return sorted((self.folder / "ddfast").glob("_cpu.*.so"))


@contextmanager
def checkouts(repo: Path, base: str, head: str, *, native: bool) -> Iterator[tuple[Checkout, Checkout]]:
    """Both revisions as worktrees, removed at the end whatever happens.

    Raises:
        CompareError: an unknown revision, or one that does not build.
    """
    commits = [(f"BASE {base}", _commit(repo, base)), (f"HEAD {head}", _commit(repo, head))]
    folder = Path(tempfile.mkdtemp(prefix="ddfast-compare-"))
    try:
        pair = [_add(repo, folder / str(number), *each) for number, each in enumerate(commits)]
        if native:
            _build_both(repo, pair[0], pair[1])
        yield pair[0], pair[1]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(["git", "-C", str(repo), "worktree", "prune"], capture_output=True, check=False)


def _git(repo: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(repo), *arguments], capture_output=True, text=True, check=True)
    except OSError as error:
        raise CompareError(f"git does not run: {error}") from error
    except subprocess.CalledProcessError as error:
        raise CompareError(f"git {' '.join(arguments)}: {error.stderr.strip()}") from error
    return done.stdout.strip()


def _commit(repo: Path, revision: str) -> str:
    return _git(repo, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")


def _add(repo: Path, folder: Path, name: str, commit: str) -> Checkout:
    _git(repo, "worktree", "add", "--detach", str(folder), commit)
    return Checkout(name, commit, folder, _native_key(repo, commit))


def _native_key(repo: Path, commit: str) -> str:
    return " ".join(_git(repo, "rev-parse", *(f"{commit}:{path}" for path in _NATIVE_INPUTS)).split())


def _build_both(repo: Path, base: Checkout, head: Checkout) -> None:
    for checkout, others in ((base, []), (head, [base])):
        ready = _built_here(repo, checkout.native_key)
        for other in others:
            if other.native_key == checkout.native_key:
                ready = other.modules()
        if ready:
            for module in ready:
                shutil.copy2(module, checkout.folder / "ddfast")
        else:
            _build(checkout)


def _built_here(repo: Path, key: str) -> list[Path]:
    """Modules lying in the repository, when they were built from exactly these sources and are younger than them."""
    modules = sorted((repo / "ddfast").glob("_cpu.*.so"))
    if not modules or _native_key(repo, "HEAD") != key or _git(repo, "status", "--porcelain", "--", *_NATIVE_INPUTS):
        return []
    sources = [repo / "setup.py", *(path for path in (repo / "csrc").rglob("*") if path.is_file())]
    newest = max(path.stat().st_mtime for path in sources)
    return modules if min(module.stat().st_mtime for module in modules) > newest else []


def _build(checkout: Checkout) -> None:
    print(f"building {checkout.name}", file=sys.stderr)
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    environment = {**os.environ, "DDFAST_CUDA": "0"}
    done = subprocess.run(command, cwd=checkout.folder, env=environment, capture_output=True, text=True)
    if done.returncode or not checkout.modules():
        raise CompareError(f"{checkout.name} does not build:\n{done.stderr[-2000:]}")
