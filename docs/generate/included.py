"""Parts of other files of the repository: the changelog, a section of CONTRIBUTING, the examples."""

from __future__ import annotations

import re
from pathlib import Path

from ddfast.store import ddranking
from docs.generate.settings import table

ROOT = Path(__file__).resolve().parents[2]
_LINK = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")


def changelog() -> str:
    """All entries, one level deeper."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    entries = text[text.index("\n## ") :].strip()
    return _plain(re.sub(r"^#", "##", entries.replace("[Unreleased]", "Unreleased"), flags=re.MULTILINE))


def deprecation() -> str:
    """What changes of public names go through."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    title = "## To change what is public\n"
    section = text.split(title)[1].split("\n## ")[0]
    return _plain(section[section.index("From 1.0 on") :].strip())


def examples() -> str:
    """The examples' own page, without its title."""
    text = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    return _plain(text.partition("\n\n")[2].strip())


def opening() -> str:
    """What the README says first."""
    return _plain((ROOT / "README.md").read_text(encoding="utf-8").split("\n\n")[1])


def subsets() -> str:
    """Ten-class subsets of ImageNet-1K by WordNet id."""
    rows = [[name, " ".join(ddranking.SUBSETS[name])] for name in ("ImageNette", "ImageWoof")]
    return table(["subset", "classes"], rows)


def _plain(text: str) -> str:
    """Without links into the repository, which the pages do not hold."""
    return _LINK.sub(r"\1", text)
