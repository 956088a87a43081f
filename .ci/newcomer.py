"""What a newcomer does, in a copy of the tracked files and an empty environment: README, the pages, the examples.

Runs README's first block as it stands there, looks at what it must have written, and then, in the environment that it
made, every block that README and the pages mark as runnable (docs_commands.py) and the examples that need no more.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from examples.run_all import NEEDS, every

ROOT = Path(__file__).resolve().parents[1]
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
    """The picture and the figures that README promises."""
    if (folder / "contact_sheet.png").read_bytes()[:8] != b"\x89PNG\r\n\x1a\n":
        raise SystemExit("demo: contact_sheet.png is no PNG file")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    found = {(each["images"], each["labels"]): each["top1"] for each in results["students"]}
    print(results["observer_top1"], found, flush=True)
    sets = ("1 a class, learned by DM", "1 a class, random pictures", "10 a class, crops by RDED")
    sets += ("10 a class, random pictures",)
    kinds = {(each, "hard labels") for each in sets} | {(each, "soft labels") for each in sets[2:]}
    if results["observer_top1"] < 95 or set(found) != kinds or any(len(each) != 3 for each in found.values()):
        raise SystemExit(f"demo: expected an observer above 95 % and three students of each of {sorted(kinds)}")
    for better, worse in (sets[:2], sets[:1:-1]):
        if min(found[better, "hard labels"]) <= max(found[worse, "hard labels"]):
            raise SystemExit(f"demo: README says that {better} teach more than {worse} with hard labels; here not")


def say(what: str, began: float) -> None:
    print(f"\n-- newcomer: {what} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
