"""Text from outside (names of classes and files, what state files hold) as it may be shown on a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: object, *, lines: bool = True) -> str:
    r"""The text with what a terminal could take for a command shown as Python writes it: ``\x1b``, ``\u202e``.

    Args:
        text: what is to be shown.
        lines: newlines and tabs stay; otherwise they are escaped too, as in a name that is to stay on its line.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(sign if _harmless(sign, lines) else sign.encode("unicode_escape").decode() for sign in shown)


def _harmless(sign: str, lines: bool) -> bool:
    return sign.isprintable() or (lines and sign in "\n\t") or unicodedata.category(sign) == "Zs"  # wide spaces
