"""The parser: its commands, help with examples, and errors that name what was probably meant."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from ddfast._printable import printable

EXIT_CODES = (
    "exit codes: 0 done, 1 failed (the message says why and what to do), 2 wrong usage, 130 Ctrl-C, 141 nobody\n"
    "reads the output any more, 143 SIGTERM (138 and 140: SIGUSR1 and SIGUSR2, with which launchers warn of the end)"
)

_LONGEST_USAGE = 6  # lines


class Parser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` whose errors end with the closest name there is."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; unknown options are told by the command that they were given to."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = getattr(found, "parser", self)
            parser.error(
                f"unrecognized arguments: {' '.join(unknown)}" + _meant(unknown, parser._option_string_actions)
            )
        return found

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _meant([str(value)], map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        """The message, and where there is help; exits with 2."""
        usage = self.format_usage()
        if usage.count("\n") > _LONGEST_USAGE:  # of dozens of options
            usage = f"usage: {self.prog} [options]\n"
        self.exit(2, f"{usage}{self.prog}: error: {printable(message)}\n(see {self.prog} --help)\n")


def _meant(words: Iterable[str], known: Iterable[str]) -> str:
    names = list(known)
    for word in words:
        name = word.partition("=")[0]
        if not (near := closest(name, names)):
            near = next((each for each in names if len(name) > 3 and each.startswith(name)), "")
        if near:
            return f"; did you mean {near}?"
    return ""


def closest(word: str, names: Iterable[str]) -> str:
    """The name most like ``word``; "" where none is."""
    return next(iter(difflib.get_close_matches(word, list(names), 1, cutoff=0.7)), "")


def command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], Any], *, help: str, examples: Sequence[str] = (),
    json: bool = True, quiet: bool = True,
) -> Parser:  # fmt: skip
    """A command that ``run`` does.

    Args:
        commands: where it is added.
        name: of the command.
        run: does it, given the parsed arguments, and returns an `Answer`.
        help: one line.
        examples: command lines for the end of its help.
        json: whether ``--json`` makes it print one JSON document.
        quiet: whether to add ``--quiet``.
    """
    lines = "".join(f"  {example}\n" for example in examples)
    parser: Parser = commands.add_parser(
        name, help=help, description=help, epilog=f"examples:\n{lines}\n{EXIT_CODES}" if lines else EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # abbreviations would take --ipc for pdd's --ipc-per-stage
    )  # fmt: skip
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON document; all else on standard error")
    if quiet:
        parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.add_argument("--traceback", action="store_true", help="show the full traceback of an error (DDFAST_DEBUG=1)")
    parser.set_defaults(run=run, parser=parser)
    return parser


def config_fields(config_class: type) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass that are options."""
    return [f for f in dataclasses.fields(config_class) if f.metadata.get("cli", True)]


def field_names(config_class: type) -> list[str]:
    """Their names."""
    return [f.name for f in config_fields(config_class)]


def add_fields(group: Any, config_class: type, method: str | None = None) -> None:
    """One flag per dataclass field; a flag that is not given leaves the preset's (or default) value alone.

    The class's ``choices`` say which values a field can have, where they are known. A field for some methods only is
    taken from others too, as scripts give the same options to all, but their help does not list it.
    """
    hints = typing.get_type_hints(config_class)
    choices: Mapping[str, Sequence[str]] = getattr(config_class, "choices", {})
    for f in config_fields(config_class):
        flag = "--" + f.name.replace("_", "-")
        kind = hints[f.name]
        text = f.metadata["help"].replace("%", "%%")
        if f.default is not None and "(default: " not in text:
            text += f" (default: {f.default!s})".replace("%", "%%")
        listed = method is None or method in f.metadata.get("methods", (method,))
        common = {"dest": f.name, "default": argparse.SUPPRESS, "help": text if listed else argparse.SUPPRESS}
        if bool in (kind, *typing.get_args(kind)):
            group.add_argument(flag, action=argparse.BooleanOptionalAction, **common)
        elif any(typing.get_origin(each) is Mapping for each in (kind, *typing.get_args(kind))):
            group.add_argument(flag, action="append", type=pair, metavar="KEY=VALUE", **common)
        elif typing.get_origin(kind) is tuple:
            group.add_argument(flag, type=float, nargs=len(typing.get_args(kind)), **common)
        elif f.name in choices:
            group.add_argument(flag, choices=choices[f.name], **common)
        elif f.name == "device":
            group.add_argument(flag, type=device, metavar="DEVICE", **common)
        else:
            plain = next(t for t in (typing.get_args(kind) or (kind,)) if t is not type(None))
            group.add_argument(flag, type=plain, metavar=plain.__name__.upper(), **common)


def given_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The values of `add_fields`' options that were given."""
    return {name: getattr(arguments, name) for name in arguments.fields if hasattr(arguments, name)}


def add_where(group: Any) -> None:
    """Where a run is done, and whether it was begun before, by this or another worker."""
    add_device(group)
    group.add_argument(
        "--shard", metavar="I/N", help="this is worker I of N, counted from 0, that share the output folder (default: "
        "as torchrun's or SLURM's variables say)",
    )  # fmt: skip
    group.add_argument("--resume", action="store_true", help="go on with the run in the output folder")
    group.add_argument("--overwrite", action="store_true", help="replace the run in the output folder")


def add_device(group: Any) -> None:
    """``--device``."""
    group.add_argument("--device", type=device, default="auto", help="cpu, cuda, cuda:N or auto")


def device(text: str) -> str:
    """A device as it is given to an option."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected auto, cpu, cuda or cuda:N")
    return text


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` of an option, dashes in the key as underscores."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE")
    return name.replace("-", "_"), value
