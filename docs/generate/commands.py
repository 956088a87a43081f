"""The command line's reference, from its parser."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ddfast._cli.commands import make_parser
from docs.generate.settings import table

# described on the page of each method
_APART = ("what is distilled",)
_PLAIN = ("positional arguments", "options")
_ALL_HAVE = ("help", "traceback", "json", "quiet")
Parser = argparse.ArgumentParser


def every() -> str:
    """A section for each command: what it is for, its usage and its options."""
    return "\n\n".join(_section(words, parser) for words, parser in walk(parser()))


def parser() -> Parser:
    """The whole command line."""
    return make_parser()


def walk(of: Parser, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Commands in order, those of ``distill`` once: they differ in their own options alone."""
    for action in of._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        names = {choice.dest for choice in action._choices_actions}
        shown = [(name, one) for name, one in action.choices.items() if name in names]
        for name, one in shown[:1] if words == ("distill",) else shown:
            yield from walk(one, (*words, name)) if _has_commands(one) else [(_words(words, name), one)]


def _has_commands(of: Parser) -> bool:
    return any(isinstance(action, argparse._SubParsersAction) for action in of._actions)


def _words(words: tuple[str, ...], name: str) -> tuple[str, ...]:
    return (*words, "METHOD") if words == ("distill",) else (*words, name)


def _section(words: tuple[str, ...], one: Parser) -> str:
    title = f"## ddfast {' '.join(words)} {{#{words[0]}}}"
    about = one.description or ""
    if words[0] == "distill":
        about = "distil a data set; the options of each method are on [its page](methods/index.md)"
    parts = [title, about[:1].upper() + about[1:] + ("" if about.endswith(".") else ".")]
    sections: dict[str, list[list[str]]] = {}
    for group in one._action_groups:
        if group.title in _APART:
            continue
        shown = [each for each in group._group_actions if each.help != argparse.SUPPRESS and each.dest not in _ALL_HAVE]
        name = "option" if group.title in _PLAIN else str(group.title)
        sections.setdefault(name, []).extend(_row(action, one, words) for action in shown)
    parts += [table([name, "what it is"], rows) for name, rows in sections.items() if rows]
    shown = [line.strip() for line in (one.epilog or "").splitlines() if line.startswith("  ddfast ")]
    if shown and words[-1] != "METHOD":
        parts.append("\n".join(("```bash", *shown, "```")))
    return "\n\n".join(parts)


def _row(action: argparse.Action, one: Parser, words: tuple[str, ...]) -> list[str]:
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    word = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    value = f" `{word}`" if action.nargs != 0 and not isinstance(action, argparse.BooleanOptionalAction) else ""
    if action.choices is not None and (words[-1], action.dest) != ("METHOD", "preset"):  # which are each method's own
        value = " " + ", ".join(f"`{choice}`" for choice in action.choices)
    formatted = one._get_formatter()._expand_help(action) if action.help else ""
    return [(names + value).strip(), formatted]
