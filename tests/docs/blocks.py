"""Code blocks of README and pages."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from docs.generate import expand

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`(ddfast [^`\n]+)`")
# words that stand for any method, preset, data set or table
_STANDS_FOR = {"METHOD": "rded", "PRESET": "smoke", "NAME": "d3-small", "DATA": "mnist5k", "COMMAND": "info"}


@dataclass(frozen=True)
class Block:
    """A fenced block: the page, the line it begins in once parts are generated, its language, whether CI runs it."""

    page: Path
    line: int
    language: str
    text: str
    run: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def text_of(page: Path) -> str:
    """A page with its generated parts."""
    return expand(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order, those of generated parts too."""
    text = text_of(page)
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start(2)) + 1
        yield Block(page, line, found[2], found[3], found[1] is not None)


def command_lines(page: Path) -> Iterator[tuple[str, list[str]]]:
    """(place, words after ``ddfast``) of every command that a page shows, in blocks and in sentences."""
    text = text_of(page)
    name = page.relative_to(ROOT)
    for block in blocks(page):
        if block.language in ("bash", ""):
            for line in block.text.replace("\\\n", " ").splitlines():
                if words := _after_ddfast(line):
                    yield f"{block}: {line.strip()}", _plain(words)
    for found in _INLINE.finditer(_BLOCK.sub("", text)):
        if (words := _after_ddfast(found[1])) and len(words) > 1:
            yield f"{name}: {found[1]}", _plain(words)


def _plain(words: list[str]) -> list[str]:
    return [_STANDS_FOR.get(word, word) for word in words]


def _after_ddfast(line: str) -> list[str]:
    """Words of the first command of a line, without what launches it and comments."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:
        return []
    for place, word in enumerate(words):
        if word == "ddfast" or word.endswith("/ddfast"):
            rest = words[place + 1 :]
            end = next((k for k, each in enumerate(rest) if each in ("&&", "||", ";", "|", ">")), len(rest))
            return rest[:end]
    return []
