"""Has mypy read the Python blocks of README and the pages, each as a file of its own, against ddfast's types.

Names that a block leaves to the reader (``images``, ``start``) are unknown and pass; keywords, attributes and types of
what ddfast gives are checked.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.docs.blocks import FILES, ROOT, blocks

# unlike ddfast's own code, a block need not be typed itself, nor ask whether what its folder holds is there
_HEAD = (
    '# mypy: disable-error-code="name-defined,import-untyped"\n'
    "# mypy: allow-untyped-defs, allow-untyped-calls, no-strict-optional\n"
)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for block in (block for file in FILES for block in blocks(file) if block.language == "python"):
            name = "".join(c if c.isalnum() else "_" for c in str(block))
            files.append(Path(folder) / f"{name}.py")
            files[-1].write_text(_HEAD + block.text, encoding="utf-8")
        print(f"{len(files)} blocks of Python", flush=True)
        command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), *map(str, files)]
        return subprocess.run([*command, *sys.argv[1:]], cwd=ROOT).returncode


if __name__ == "__main__":
    sys.exit(main())
