"""The command line: what becomes of a command's answer, its errors and interruptions; the commands are in `_cli`."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from ddfast import _env
from ddfast._cli.answer import Answer, coloured
from ddfast._cli.commands import make_parser
from ddfast._cli.errors import describe_error, user_errors
from ddfast._printable import printable
from ddfast.runs.preemption import Preempted, preemptible

_CLOSED = 141  # as other programs end whose reader is gone (SIGPIPE)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code.

    0 done, 1 failed, 2 wrong usage, 130 interrupted, 141 nobody reads the output any more, 143 ended by SIGTERM.
    SIGUSR1 and SIGUSR2, with which launchers warn of the end, count as SIGTERM does (138 and 140).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    _open_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be valid Unicode
    code = 0
    try:
        try:
            code = _run(words)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # such as ddfast info | head -1
        _drop_output()
        return _CLOSED
    except OSError as error:  # such as a full disk
        if "--traceback" in words or _env.debug():
            raise
        _drop_output()
        if not code:  # else it was told already
            _tell_error(f"standard output: {error.strerror or error}")
        return code or 1
    return code


def _run(words: list[str]) -> int:
    arguments: argparse.Namespace | None = None
    try:
        parser = make_parser(next((word for word in words if not word.startswith("-")), ""))
        if not words:
            parser.print_help()
            return 0
        arguments = parser.parse_args(words)
        with preemptible(), _plain_warnings():
            answer = _do(arguments, words)
        return 0 if answer is None else answer.say(as_json=getattr(arguments, "json", False))
    except KeyboardInterrupt:
        print(f"\ninterrupted{_how_to_go_on(arguments)}", file=sys.stderr)
        return 130
    except Preempted as stop:
        print(f"\nstopped by {stop}{_how_to_go_on(arguments)}", file=sys.stderr)
        return stop.exit_code
    except user_errors() as error:
        if "--traceback" in words or _env.debug() or (isinstance(error, BrokenPipeError) and _output_closed()):
            raise
        _tell_error(describe_error(error))
        return 1


def _tell_error(text: str) -> None:
    print(f"{coloured('ddfast: error:', '1;31')} {text}", file=sys.stderr)


def _open_streams() -> None:
    """A stream that the caller has closed (``>&-``) leads nowhere, for helper processes too.

    In this order each gets its own number back, which a file of the run would get otherwise.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


@contextlib.contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings in the form of errors, without the library's line that gave them."""
    before = warnings.formatwarning

    def plain(message: Warning | str, *_: object, **__: object) -> str:
        return f"{coloured('ddfast: warning:', '1;33')} {printable(message)}\n"

    warnings.formatwarning = plain
    try:
        yield
    finally:
        warnings.formatwarning = before


def _do(arguments: argparse.Namespace, words: Sequence[str]) -> Answer | None:
    """Runs the command; with --json all that is printed meanwhile goes to standard error."""
    from ddfast._cli import runs

    arguments.stdout = sys.stdout
    with contextlib.redirect_stdout(sys.stderr) if getattr(arguments, "json", False) else contextlib.nullcontext():
        if getattr(arguments, "launcher", None):
            return runs.launch(arguments, words, arguments.out or _report_folder(arguments))
        answer: Answer | None = arguments.run(arguments)
        return answer


def _report_folder(arguments: argparse.Namespace) -> Path:
    from ddfast._cli.judge import evaluation_folder

    return evaluation_folder(arguments)


def _how_to_go_on(arguments: argparse.Namespace | None) -> str:
    """The end of the line that says the command was stopped."""
    if arguments is None:
        return " before anything was started"
    given = set(vars(arguments))
    if "table" in given:
        return "; what is finished is kept, give the same command to go on"
    return "; what is finished is kept, go on with --resume" if {"method", "sets", "teachers"} & given else ""


def _output_closed() -> bool:
    """Whether it is standard output that nobody reads any more, rather than a pipe of the work."""
    try:
        sys.stdout.flush()
        watched = select.poll()
        watched.register(sys.stdout.fileno(), select.POLLOUT)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in watched.poll(0))
    except BrokenPipeError:
        return True
    except (AttributeError, OSError, ValueError):  # no poll here, or no file
        return False


def _drop_output() -> None:
    """Python flushes standard output once more at its end, which would be told as an error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
