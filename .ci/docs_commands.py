"""Runs what the pages mark as runnable (``<!-- run -->``), each page in a folder of its own, in the page's order."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.docs.blocks import PAGES, Block, blocks


def main(names: list[str]) -> int:
    """All pages, or those named (``getting-started``); the exit code."""
    began = time.monotonic()
    for page in PAGES:
        runnable = [block for block in blocks(page) if block.run]
        if runnable and (not names or page.stem in names):
            with tempfile.TemporaryDirectory() as folder:
                for block in runnable:
                    if code := run(block, folder):
                        print(f"{block} failed with exit code {code}:\n{block.text}", file=sys.stderr)
                        return 1
    print(f"all ran in {time.monotonic() - began:.0f} s")
    return 0


def run(block: Block, folder: str) -> int:
    """Runs one block; the exit code."""
    began = time.monotonic()
    command = [sys.executable, "-c"] if block.language == "python" else ["bash", "-euo", "pipefail", "-c"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run([*command, block.text], cwd=folder, env={**os.environ, "PATH": path})
    print(f"-- {block}: {time.monotonic() - began:.1f} s", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
