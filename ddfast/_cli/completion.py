"""Completion in shells: a static script made of the parser by shtab, so that a shell starts no Python for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ddfast._cli.parser import device

SHELLS = ("bash", "zsh", "fish")
_PLACES = ("data", "train", "teacher_weights", "labels", "buffers", "weights")  # options of text that are often paths


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell.

    Args:
        parser: the whole command line.
        shell: one of ``SHELLS``.

    Raises:
        ImportError: shtab is missing.
    """
    try:
        import shtab
    except ImportError as error:
        raise ImportError("completion needs shtab: pip install 'ddfast[completion]'") from error
    for action in _actions(parser):
        if action.type is device:  # this parser reads no command lines
            action.choices = ("auto", "cpu", "cuda")
        if (action.type is Path or action.dest in _PLACES) and action.choices is None:
            vars(action)["complete"] = shtab.FILE
    return str(shtab.complete(parser, shell))


def _actions(parser: argparse.ArgumentParser) -> Iterator[Any]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
        else:
            yield action
