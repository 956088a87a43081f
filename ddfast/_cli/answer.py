"""What a command has to say: text for people, one JSON document for programs; and colour, where it is wanted."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

from ddfast._printable import printable


@dataclass(frozen=True)
class Answer:
    """The end of a command: ``text`` for people ("" for nothing), ``document`` for ``--json``, and the exit code."""

    text: str = ""
    document: Any = None
    code: int = 0

    def say(self, *, as_json: bool) -> int:
        """Writes text or document to standard output; returns the exit code.

        Raises:
            OSError: it cannot be written, such as to a full disk.
        """
        # the text has names of classes and files
        text = json.dumps(plain(self.document), allow_nan=False, default=str) if as_json else printable(self.text)
        try:
            if text:
                print(text, flush=True)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, "standard output") from None
        return self.code


def plain(value: Any) -> Any:
    """The value as JSON has it: no infinity and no NaN (they become text), no tuples, keys that are text."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def coloured(text: str, code: str, stream: TextIO | None = None) -> str:
    """``text`` in an ANSI colour if ``stream`` (standard error) is a terminal that has them.

    ``NO_COLOR`` turns colours off, ``FORCE_COLOR`` on elsewhere too; the first wins.
    """
    target = sys.stderr if stream is None else stream
    terminal = target is not None and target.isatty() and os.environ.get("TERM") != "dumb"
    wanted = terminal or bool(os.environ.get("FORCE_COLOR"))
    return f"\x1b[{code}m{text}\x1b[0m" if wanted and not os.environ.get("NO_COLOR") else text
