"""Tables of presets and options, from the methods' own classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ddfast.evaluation.protocols import PROTOCOLS
from ddfast.methods import RunOptions, get_method

# more columns than this do not fit a page: then each preset's settings stand in one cell
_COLUMNS = 11


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; a bar in a cell does not end it."""
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|" + " --- |" * len(head), *text[1:]])


def presets(method: str) -> str:
    """What each preset of a method sets; everything else has the option's default."""
    found = get_method(method).presets
    if not found:
        return "No presets."
    smoke = found.get("smoke")
    named = {name: dict(values) for name, values in found.items() if name != "smoke"}
    keys = list(dict.fromkeys(key for values in named.values() for key in values))
    if not named:
        made = ""
    elif len(keys) <= _COLUMNS and not any(isinstance(v, Mapping) for each in named.values() for v in each.values()):
        rows = [[f"`{name}`", *(_value(values[key]) if key in values else "" for key in keys)]
                for name, values in named.items()]  # fmt: skip
        made = table(["preset", *(f"`{key}`" for key in keys)], rows)
    else:
        made = table(["preset", "sets"], [[f"`{name}`", _settings(values)] for name, values in named.items()])
    small = "" if smoke is None else f"\n\n`smoke` (ours, for trying it out): {_settings(smoke)}"
    return made + small


def options(method: str) -> str:
    """Every option that decides what a method distils."""
    return _fields(get_method(method).config_class)


def run_options() -> str:
    """The options shared by all methods."""
    return _fields(RunOptions)


def recipes() -> str:
    """The recipes of student training."""
    rows = [[f"`{name}`", protocol.about, str(protocol.width)] for name, protocol in sorted(PROTOCOLS.items())]
    return table(["`--preset`", "what it does", "width of ConvNets"], rows)


def _fields(config_class: type) -> str:
    rows = []
    for f in dataclasses.fields(config_class):
        if not f.metadata.get("cli", True):
            continue
        methods = f.metadata.get("methods")
        only = f" (for {', '.join(methods)})" if methods else ""
        rows.append([f"`--{f.name.replace('_', '-')}`", _value(f.default), f.metadata["help"] + only])
    return table(["option", "default", "what it is"], rows)


def _settings(values: Mapping[str, Any]) -> str:
    parts = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            parts.append(f"`{name}`: (" + _settings(value) + ")")
        else:
            parts.append(f"`{name}={_plain(value)}`")
    return " ".join(parts)


def _value(value: Any) -> str:
    return "" if value is None else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return '""' if value == "" else str(value)
