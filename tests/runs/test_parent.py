"""A helper ends when its parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys, time
from ddfast.runs.parent import end_with_parent
end_with_parent(0.1)
while True:
    open(sys.argv[1], "w").close()
    time.sleep(0.05)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", *sys.argv[1:]])
print(child.pid, flush=True)
time.sleep(60)
"""


def test_a_helper_does_not_outlive_its_killed_parent(tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD, str(alive)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    helper = int(parent.stdout.readline())
    limit = time.monotonic() + 30
    while not alive.exists():
        assert time.monotonic() < limit
        time.sleep(0.05)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    while time.monotonic() < limit:
        alive.unlink(missing_ok=True)
        time.sleep(0.5)
        if not alive.exists():
            return
    os.kill(helper, signal.SIGKILL)
    raise AssertionError("the helper went on")
