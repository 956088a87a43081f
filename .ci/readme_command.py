"""Prints the N-th one-line ``bash`` block of README.md, so that CI runs what readers are told to run."""

import pathlib
import re
import sys

readme = pathlib.Path(__file__).resolve().parent.parent / "README.md"
blocks = re.findall(r"^```bash\n(.*?)^```$", readme.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
command = blocks[int(sys.argv[1]) - 1].strip()
if "\n" in command:
    raise SystemExit(f"README's bash block {sys.argv[1]} has more than one line:\n{command}")
print(command)
