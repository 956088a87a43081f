"""The result of `explain`: facts for programs, and the same in words."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ddfast._printable import printable

_WIDTH, _LINE = 10, 110  # of topics, of lines


@dataclass
class Explanation:
    """What a folder holds.

    Attributes:
        kind: "distilled set", "image folder", "soft labels", "export" or "unfinished run".
        folder: where it is.
        words: (topic, sentences) for people, in order.
        facts: for programs, JSON values.
        command: how ddfast judges it; "" where that cannot be said.
        code: Python that trains on it.
        missing: what nobody can say from the folder.
        warnings: what its users should know.
    """

    kind: str
    folder: str
    words: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    code: str = ""
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def document(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {
            "kind": self.kind, "folder": self.folder, **self.facts, "words": dict(self.words), "command": self.command,
            "code": self.code, "missing": self.missing, "warnings": self.warnings,
        }  # fmt: skip

    def say(self, topic: str, *sentences: str) -> None:
        """Adds sentences, if there are any, on a topic."""
        if text := " ".join(sentence for sentence in sentences if sentence):
            self.words.append((topic, text))

    def text(self) -> str:
        """For a terminal: a paragraph a topic, then command, code, what is missing, warnings."""
        parts = [f"{self.folder}: {self.kind}", ""]
        parts += [line for topic, text in self.words for line in _paragraph(topic, text)]
        if self.command:
            parts += ["", "Judge it:", f"  {self.command}"]
        if self.code:
            parts += ["", "Train on it:", *(f"  {line}" for line in self.code.splitlines())]
        for title, lines in (("Not known:", self.missing), ("Mind:", self.warnings)):
            if lines:
                parts += ["", title, *(f"  - {line}" for line in lines)]
        # names come from outside: without what a terminal takes for commands
        return "\n".join(printable(line, lines=False) for line in parts)


def _paragraph(topic: str, text: str) -> list[str]:
    """The topic on the left, the sentences beside it."""
    space = " " * (_WIDTH + 1)
    return textwrap.wrap(
        text, _LINE, initial_indent=f"{topic + ':':{_WIDTH}} ", subsequent_indent=space, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def as_mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: manifests come from outside, and not all of each is checked."""
    return value if isinstance(value, Mapping) else {}


def size_text(count: float) -> str:
    """``950 bytes``, ``12.3 kB``, ``4.56 MB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def plural(count: int, what: str) -> str:
    """``1 image``, ``2 images``, ``2 classes``."""
    return f"{count:,} {what}" + ("" if count == 1 else "es" if what.endswith("s") else "s")
