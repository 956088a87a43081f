"""What a newcomer does, in a copy of the tracked files and an empty environment: README, the pages, the examples.

Runs README's first block as it stands there, looks at what it must have written, and then, in the environment that it
made, every block that README and the pages mark as runnable (docs_commands.py) and the examples that need no more.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.run_all import NEEDS, every

ROOT = Path(__file__).resolve().parents[1]
POINTS = 6.0
# what belongs to another environment or checkout
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def main() -> None:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "ddfast"
        copy_tracked(clone)
        block = subprocess.check_output([sys.executable, ROOT / ".ci/readme_command.py", "1"], text=True).strip()
        say("README's first block", began)
        print(block, flush=True)
        call(["bash", "-euo", "pipefail", "-c", block], clone)
        check_demo(clone / "demo_out")
        say("blocks marked as runnable", began)
        call([sys.executable, str(ROOT / ".ci/docs_commands.py"), "--environment", str(clone / ".venv")], ROOT)
        say("examples", began)
        names = [name for name in every() if name not in NEEDS]
        call([str(clone / ".venv/bin/python"), "examples/run_all.py", "--all", *names], clone)
        say("all done", began)


def copy_tracked(to: Path) -> None:
    """The files that git tracks, as they are here now."""
    names = subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")
    for name in names:
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def call(command: list[str], folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment["DDFAST_CUDA"] = "0"  # a newcomer's machine has no nvcc; README's second block builds with it
    subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=True)


def check_demo(folder: Path) -> None:
    """The picture that README promises, and its table: within some points, since last bits differ by machine."""
    if (folder / "contact_sheet.png").read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise SystemExit("demo: contact_sheet.png is no PNG file")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = {(each["images"], each["labels"]): statistics.mean(each["top1"]) for each in results["students"]}
    promised = readme_table()
    print(f"demo: {found}; README: {promised}", flush=True)
    if found.keys() != promised.keys() or any(abs(found[row] - promised[row]) > POINTS for row in promised):
        raise SystemExit(f"demo: expected README's rows, and top-1 within {POINTS} points")


def readme_table() -> dict[tuple[str, str], float]:
    """Mean top-1 by images and labels, as README's table of the demo has it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    head, _, *rows = re.findall(r"^\|(.*)\|$", text[text.index("<!-- written: demo -->") :].split("<!-- end")[0], re.M)
    kinds = [cell.strip() for cell in head.split("|")][1:]
    found = {}
    for name, *cells in ([cell.strip() for cell in row.split("|")] for row in rows):
        found |= {(name, kind): float(cell.split()[0]) for kind, cell in zip(kinds, cells, strict=True) if cell}
    return found


def say(what: str, began: float) -> None:
    print(f"\n-- newcomer: {what} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
