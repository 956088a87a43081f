"""MkDocs' hooks: generated parts, formulas as MathML (no script, no network), and plain names in docstrings."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from docs.generate import expand

_MATHS = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
_ROLE = re.compile(r":(?:func|class|meth|data|mod|attr|exc):(?=<code>)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Puts the generated parts in."""
    return expand(markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Formulas become MathML, and Sphinx's roles of docstrings plain names."""
    return _ROLE.sub("", _MATHS.sub(_formula, content))


def _formula(found: re.Match[str]) -> str:
    kind, text = found[1], html.unescape(found[2]).strip()
    made = convert(text, display="block" if kind == "div" else "inline")
    if "\\" in made:
        raise ValueError(f"formula: {text!r} has a command that latex2mathml does not know, in {made!r}; avoid it")
    return f'<{kind} class="formula">{made}</{kind}>'
