"""Parts of the pages that are made from the code and the committed results, so that they cannot differ from them.

A page has a line ``<!-- generated: NAME ARGUMENTS -->``; `expand` puts the part there when the pages are built. What
people should find in the repository's files too stands between ``<!-- written: NAME ARGUMENTS -->`` and ``<!-- end of
written -->``; ``python -m docs.generate`` writes it anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from docs.generate import commands, included, json_keys, measured, reproduced, settings

PARTS: dict[str, Callable[..., str]] = {
    "changelog": included.changelog,
    "commands": commands.every,
    "demo": reproduced.demo,
    "deprecation": included.deprecation,
    "examples": included.examples,
    "json-keys": json_keys.json_keys,
    "opening": included.opening,
    "ops": measured.ops,
    "options": settings.options,
    "presets": settings.presets,
    "recipes": settings.recipes,
    "reproductions": reproduced.names,
    "run-options": settings.run_options,
    "scale": reproduced.scale,
    "study": reproduced.study,
    "subsets": included.subsets,
    "table": reproduced.table,
    "table-20-classes": reproduced.twenty_classes,
}
MARK = re.compile(r"^<!-- (?:generated|written): (.+?) -->$", re.MULTILINE)
_GENERATED = re.compile(r"^<!-- generated: (.+?) -->$", re.MULTILINE)
_WRITTEN = re.compile(r"^<!-- written: (.+?) -->\n.*?^<!-- end of written -->$", re.MULTILINE | re.DOTALL)


def expand(text: str) -> str:
    """The page with its generated parts.

    Raises:
        ValueError: a name that there is no part for.
    """
    return _GENERATED.sub(lambda found: part(*found[1].split()), text)


def rewrite(text: str) -> str:
    """The page with its written parts made anew.

    Raises:
        ValueError: a name that there is no part for.
    """

    def again(found: re.Match[str]) -> str:
        return f"<!-- written: {found[1]} -->\n\n{part(*found[1].split()).strip()}\n\n<!-- end of written -->"

    return _WRITTEN.sub(again, text)


def part(name: str, *arguments: str) -> str:
    """One generated part, Markdown.

    Raises:
        ValueError: there is no part of this name.
    """
    if name not in PARTS:
        raise ValueError(f"generated: got {name!r}, expected one of {', '.join(sorted(PARTS))}")
    return PARTS[name](*arguments)
