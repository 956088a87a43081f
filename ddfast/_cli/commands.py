"""All commands: their names and one line each at no cost, their options when they are asked for."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from typing import Any

from ddfast._cli.parser import EXIT_CODES, Parser
from ddfast._info import own_version

_EXAMPLES = """examples:
  ddfast demo --out demo
  ddfast distill rded --preset smoke --data mnist5k --out smoke
  ddfast explain smoke
  ddfast evaluate smoke --preset smoke
  ddfast distill rded --data imagenet:train --observer resnet18 --weights resnet18.pth --ipc 10 --out rded_in1k
  ddfast status rded_in1k --watch
Every command has more of its own: ddfast COMMAND --help

"""

# name, one line for the list, module and function that add its options
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("demo", "distil real digits and train on the result, in under three minutes", "machine.add_demo"),
    ("distill", "distil a data set", "distill.add"),
    ("explain", "what a distilled set is, how it was made and how to train on it", "sets.add_explain"),
    ("evaluate", "train students on a distilled set and on controls; report", "judge.add_evaluate"),
    ("continual", "class-incremental learning with distilled sets as the memory", "judge.add_continual"),
    ("relabel", "store teachers' soft labels for every view of a training", "sets.add_relabel"),
    ("export", "write a distilled set as other programs read it", "sets.add_export"),
    ("reproduce", "make a paper's or study's tables; start it again to go on", "machine.add_reproduce"),
    ("status", "how far a run is, and who works on it", "runs.add_status"),
    ("retry", "free tasks that failed or whose worker died", "runs.add_retry"),
    ("clean", "remove what killed processes left in a run", "runs.add_clean"),
    ("info", "what is installed and which backends would run", "machine.add_info"),
    ("bench", "what ddfast reaches on this machine, and how far that is from its limit", "machine.add_bench"),
    ("completion", "print a script that completes commands and options in a shell", "machine.add_completion"),
)


def make_parser(only: str | None = None) -> Parser:
    """The parser of the command line.

    Args:
        only: the command that is meant, the others are listed alone and nothing is imported for them; "" for none of
            them; None for all.
    """
    parser = Parser(
        prog="ddfast", description="Dataset distillation: fast, exact, resumable.", epilog=_EXAMPLES + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"ddfast {own_version()}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, line, where in COMMANDS:
        if only in (None, name):
            _adder(where)(commands)
        else:
            commands.add_parser(name, help=line)
    return parser


def _adder(where: str) -> Callable[[Any], None]:
    module, function = where.split(".")
    found: Callable[[Any], None] = getattr(import_module(f"ddfast._cli.{module}"), function)
    return found
