"""Writes the parts that stand in the pages' files: ``python -m docs.generate``."""

from __future__ import annotations

import sys
from pathlib import Path

from docs.generate import rewrite


def main() -> int:
    """README and all pages; prints those that changed."""
    home = Path(__file__).resolve().parents[2]
    for page in (home / "README.md", *sorted((home / "docs").rglob("*.md"))):
        old = page.read_text(encoding="utf-8")
        if (new := rewrite(old)) != old:
            page.write_text(new, encoding="utf-8")
            print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
