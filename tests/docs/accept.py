"""Whether the command line takes a command as it is written, values too, without running it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from torchvision.models import list_models

from ddfast._cli.parser import Parser, given_fields
from ddfast.evaluation.incremental.config import ContinualConfig
from ddfast.evaluation.protocols import EvaluationConfig
from ddfast.evaluation.students import build_student, parse_students
from ddfast.methods import RunOptions, get_method
from ddfast.reproduce import REPRODUCTIONS
from ddfast.runs import identify_worker
from ddfast.studies import STUDIES
from docs.generate.commands import parser, walk

# What a command needs besides the option that a sentence names
_BESIDES = {
    "distill": ("--data", "mnist5k", "--out", "out", "--preset", "smoke"),
    "explain": ("smoke",),
    "evaluate": ("smoke",),
    "continual": ("smoke",),
    "relabel": ("smoke", "--teacher", "train:conv3", "--out", "out"),
    "export": ("smoke", "--to", "mtt", "--out", "out"),
    "reproduce": ("d3-small",),
    "status": ("smoke",),
    "retry": ("smoke",),
    "clean": ("smoke",),
    "completion": ("bash",),
}
# Words in capitals of sentences, and a value in their place
_VALUES = {"N": "1", "I/N": "0/2", "FILE": "file", "FOLDER": "folder", "KEY=VALUE": "iterations=2", "NAME=FILE": "a=b"}


def refusal(words: Sequence[str]) -> str:
    """Why ``ddfast WORDS`` is refused; "" where it would run, given its files."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            found = _parser().parse_args(list(words))
    except SystemExit as error:
        return said.getvalue().split("error: ")[-1] if error.code else ""
    try:
        _check_values(words[0], found)
    except (ValueError, TypeError) as error:
        return str(error)
    return ""


def refused_everywhere(option: Sequence[str], methods: Sequence[str]) -> str:
    """Why no command takes ``--option VALUE`` of a sentence; "" where one does.

    Args:
        option: the option and its value, or several.
        methods: on their page only these methods' ``distill`` counts, if one has the option; () for all.
    """
    words = [_VALUES.get(word, word) for word in option]
    takers = list(_takers(words))
    own = [taker for taker in takers if taker[-1] in methods]
    if not takers:
        return "no command has it"
    if len(words) == 1:  # its name alone, perhaps to say who refuses it
        return ""
    reasons = [refusal((*taker, *_BESIDES.get(taker[0], ()), *words)) for taker in own or takers]
    return min(reasons, key=len)


def _takers(words: Sequence[str]) -> Iterator[tuple[str, ...]]:
    names = {word for word in words if word.startswith("--")}
    for taker, one in _every():
        if names <= set(one._option_string_actions):
            yield taker


@cache
def _parser() -> Parser:
    return parser()


@cache
def _every() -> list[tuple[tuple[str, ...], argparse.ArgumentParser]]:
    """Every command with its parser, ``distill`` once for each method."""
    found = [(words, one) for words, one in walk(_parser()) if words[0] != "distill"]
    (commands,) = [each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction)]
    (methods,) = [each for each in commands.choices["distill"]._actions if isinstance(each, argparse._SubParsersAction)]
    return [*found, *((("distill", name), one) for name, one in methods.choices.items())]


def _check_values(command: str, found: argparse.Namespace) -> None:
    """As the command does first; ValueError or TypeError for a value that it refuses."""
    given = given_fields(found) if hasattr(found, "fields") else {}
    if command == "distill":
        given = {name: _value(value) for name, value in given.items()}
        run = {f.name for f in dataclasses.fields(RunOptions)}
        RunOptions(**{name: value for name, value in given.items() if name in run})
        values = {name: value for name, value in given.items() if name not in run}
        get_method(found.method).configure(found.preset, **values)
    elif command in ("evaluate", "continual"):
        config = EvaluationConfig if command == "evaluate" else ContinualConfig
        config(**given, **({"preset": found.preset} if found.preset else {}))
        for name in parse_students(found.students or "conv3"):
            _known_student(name)
    elif command == "reproduce" and found.table not in {*REPRODUCTIONS, *STUDIES}:
        raise ValueError(f"reproduce: got {found.table!r}, expected one of {', '.join((*REPRODUCTIONS, *STUDIES))}")
    if hasattr(found, "shard") and found.shard:
        identify_worker(found.shard)


@cache
def _known_student(name: str) -> None:
    if name not in list_models():
        with torch.device("meta"):
            build_student(name, 10, 64, seed=0)


def _value(value: object) -> object:
    if isinstance(value, list):
        return dict(value) if value and isinstance(value[0], tuple) else tuple(value)
    return str(value) if isinstance(value, Path) else value
