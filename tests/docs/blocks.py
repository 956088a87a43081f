"""Code blocks, commands and inline code of README, the pages and every other Markdown file."""

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
# and those that are no pages of the site
_APART = tuple(path for folder in (".github", ".", "examples", "packaging") for path in (ROOT / folder).glob("*.md"))
FILES = (*PAGES, *sorted(path for path in _APART if path not in PAGES))
TEMPLATES = tuple(sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")))
_BLOCK = re.compile(
    r"^(<!-- run(?:: (?P<part>first|only) (?P<count>\d+))?(?:: extra (?P<extra>\w+))? -->\n)?"
    r"```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_ENDS = ("&&", "||", ";", "|", "&")
# words that stand for any method, preset, data set or table
_STANDS_FOR = {"METHOD": "rded", "PRESET": "smoke", "NAME": "d3-small", "DATA": "mnist5k", "COMMAND": "info"}


@dataclass(frozen=True)
class Block:
    """A fenced block: the page, the line it begins in once parts are generated, its language, and its mark.

    ``<!-- run -->`` before a block has CI run it, ``<!-- run: first 2 -->`` its first two commands alone,
    ``<!-- run: only 2 -->`` the second, ``<!-- run: extra huggingface -->`` where this extra is installed.
    """

    page: Path
    line: int
    language: str
    text: str
    run: bool
    part: tuple[int, int] | None = None
    extra: str = ""

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runnable(self) -> str:
        """What of the text CI runs."""
        lines = self.text.replace("\\\n", " ").splitlines(keepends=True)
        return self.text if self.part is None else "".join(lines[slice(*self.part)])


@dataclass(frozen=True)
class Command:
    """A command that a file shows: where, its words from the program on, and whether it stands in a sentence."""

    place: str
    words: tuple[str, ...]
    inline: bool = False

    @property
    def ddfast(self) -> tuple[str, ...]:
        """The words after ``ddfast``, whatever launches it; none for other programs."""
        for place, word in enumerate(self.words):
            if word == "ddfast" or word.endswith("/ddfast"):
                return tuple(_STANDS_FOR.get(each, each) for each in self.words[place + 1 :])
        return ()


@cache
def text_of(page: Path) -> str:
    """A page with its generated parts."""
    return expand(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page, in order, those of generated parts too."""
    text = text_of(page)
    for found in _BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        end = int(found["count"] or 0)
        part = (end - 1 if found["part"] == "only" else 0, end) if end else None
        yield Block(page, line, found["language"], found["text"], found[1] is not None, part, found["extra"] or "")


def commands(page: Path) -> Iterator[Command]:
    """Every command of the blocks of a page, those after ``&&`` too."""
    for block in blocks(page):
        if block.language in ("bash", ""):
            for line in block.text.replace("\\\n", " ").splitlines():
                for words in split(line):
                    yield Command(f"{block}: {line.strip()}", words)


def inline_code(page: Path) -> Iterator[str]:
    """What stands between backquotes in the sentences and tables of a page."""
    text = text_of(page) if page.suffix == ".md" else page.read_text(encoding="utf-8")
    for found in _INLINE.finditer(_BLOCK.sub("", text)):
        yield found[1]


def split(line: str) -> list[tuple[str, ...]]:
    """The commands of a line of shell, without comments, redirections and variables set for one of them.

    Raises:
        ValueError: a quotation that does not end.
    """
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    made: list[list[str]] = [[]]
    words = iter(lexer)
    for word in words:
        if word in _ENDS:
            made.append([])
        elif word in (">", ">>", "<"):
            next(words)
        elif made[-1] or not re.fullmatch(r"[A-Z_]+=\S*", word):
            made[-1].append(word)
    return [tuple(words) for words in made if words]
