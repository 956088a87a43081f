"""Runs what README and the pages mark as runnable, each page in a folder of its own, in the page's order.

README comes first. A later page that names a set which README's commands made, such as ``smoke``, and does not make it
itself begins with a copy, as a reader who follows README has it. Where only some pages are run, only those commands of
README are that make what they name.
"""

import argparse
import dataclasses
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.docs.blocks import PAGES, ROOT, Block, blocks

README = ROOT / "README.md"
# of other environments and checkouts
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", help="names without .md (default: all)")
    parser.add_argument("--environment", type=Path, help="virtual environment to run in (default: this one)")
    parser.add_argument("--extra", default="", help="only blocks that need this extra (default: those that need none)")
    arguments = parser.parse_args()
    programs = (arguments.environment / "bin").resolve() if arguments.environment else Path(sys.executable).parent
    began = time.monotonic()
    pages = chosen(arguments.pages, arguments.extra)
    todo = {page: [b for b in blocks(page) if b.run and b.extra == arguments.extra] for page in pages}
    if README not in todo:
        first = makers("".join(b.runnable for page in pages for b in todo[page]))
        todo = {README: [first] if first.text else [], **todo}
    with tempfile.TemporaryDirectory() as scratch:
        for page, marked in todo.items():
            folder = Path(scratch) / page.stem
            folder.mkdir()
            if page != README:
                bring(Path(scratch) / README.stem, folder, "".join(block.runnable for block in marked))
            for block in marked:
                if code := run(block, folder, programs):
                    print(f"{block} failed with exit code {code}:\n{block.runnable}", file=sys.stderr)
                    return 1
    print(f"all ran in {time.monotonic() - began:.0f} s")
    return 0


def chosen(names: Sequence[str], extra: str) -> list[Path]:
    """Pages with something to run."""
    wanted = [page for page in PAGES if not names or page.stem in names]
    return [page for page in wanted if any(block.run and block.extra == extra for block in blocks(page))]


def makers(text: str) -> Block:
    """README's commands that make what ``text`` names but does not make, and what they need themselves."""
    block = next(block for block in blocks(README) if block.run and block.language == "")
    kept: list[str] = []
    for line in reversed(block.text.splitlines(keepends=True)):
        if made(line) & missing(text + "".join(kept)):
            kept.insert(0, line)
    return dataclasses.replace(block, text="".join(kept))


def made(text: str) -> set[str]:
    """Names of the folders that commands write."""
    return {name for pair in re.findall(r"--out (\S+)|out=\"(\w+)\"", text) for name in pair if name}


def missing(text: str) -> set[str]:
    """Words of commands that name none of the folders that they make."""
    return set(re.findall(r"[\w-]+", text)) - made(text)


def bring(source: Path, folder: Path, text: str) -> None:
    """Copies of the sets in ``source`` that commands name but do not make."""
    for each in source.iterdir():
        if each.is_dir() and each.name in missing(text):
            shutil.copytree(each, folder / each.name)


def run(block: Block, folder: Path, programs: Path) -> int:
    """Runs one block; the exit code."""
    began, used = time.monotonic(), cpu_seconds()
    python = block.language == "python"
    command = [str(programs / "python"), "-c"] if python else ["bash", "-euo", "pipefail", "-c"]
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment["PATH"] = f"{programs}{os.pathsep}{os.environ.get('PATH', '')}"
    print(f"-- {block}", flush=True)
    done = subprocess.run([*command, block.runnable], cwd=folder, env=environment, stdin=subprocess.DEVNULL)
    print(f"-- {block}: {time.monotonic() - began:.1f} s, {cpu_seconds() - used:.1f} s of CPU", flush=True)
    return done.returncode


def cpu_seconds() -> float:
    """Of all that was run so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
