"""Runs the files of Triton cases under Triton's interpreter on the CPU, and on a GPU where there is one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CASES = sorted(Path(__file__).parent.glob("triton_*cases.py"))


@pytest.mark.slow
@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
@pytest.mark.parametrize("where", ["interpreter", pytest.param("gpu", marks=pytest.mark.gpu)])
def test_cases(where: str, cases: Path, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    env = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "DDFAST_BACKEND")}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    if where == "interpreter":
        env["TRITON_INTERPRET"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::RuntimeWarning",
        str(cases),
    ]
    done = subprocess.run(command, env=env, cwd=cases.parents[2], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
