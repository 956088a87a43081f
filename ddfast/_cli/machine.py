"""Commands that need no set: info, bench, demo, reproduce, completion."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ddfast._cli.answer import Answer
from ddfast._cli.completion import SHELLS, script
from ddfast._cli.parser import add_device, command


def add_info(commands: Any) -> None:
    """``ddfast info``."""
    text = "what is installed and which backends would run"
    command(commands, "info", _info, help=text, examples=("ddfast info", "ddfast info --json"))


def add_bench(commands: Any) -> None:
    """``ddfast bench``."""
    bench = command(
        commands, "bench", _bench, help="what ddfast reaches on this machine, and how far that is from its limit",
        examples=("ddfast bench --out bench_out", "ddfast bench --quick --device cpu", "ddfast bench --json"),
    )  # fmt: skip
    bench.add_argument("--out", type=Path, default=Path("bench_out"), help="output folder (default: %(default)s)")
    bench.add_argument("--quick", action="store_true", help="half a minute instead of two; for a look, not to quote")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="default: all there are")


def add_demo(commands: Any) -> None:
    """``ddfast demo``."""
    demo = command(
        commands, "demo", _demo, help="distil real digits and train on the result, in under three minutes",
        examples=("ddfast demo --out demo", "ddfast demo --out demo --seed 1 --overwrite"),
    )  # fmt: skip
    demo.add_argument("--out", type=Path, default=Path("demo_out"), help="output folder (default: %(default)s)")
    demo.add_argument("--seed", type=int, default=0, help="of everything (default: %(default)s)")
    demo.add_argument("--overwrite", action="store_true", help="replace an earlier demo in the output folder")


def add_reproduce(commands: Any) -> None:
    """``ddfast reproduce``."""
    from ddfast.reproduce import REPRODUCTIONS
    from ddfast.studies import STUDIES

    one = command(
        commands, "reproduce", _reproduce, help="make a paper's or study's tables; start it again to go on",
        examples=(
            "ddfast reproduce rded-cifar10-conv3 --data cifar-10-batches-bin --out reproduced",
            "ddfast reproduce pdd-small --data cifar-10-batches-bin --out pdd_small",
            "ddfast reproduce pdd-digits --seeds 1 --json > table.json",
        ),
    )  # fmt: skip
    names = (*sorted(REPRODUCTIONS), *STUDIES)
    one.add_argument("table", metavar="NAME", choices=names, help=f"{', '.join(names[:-1])} or {names[-1]}")
    given = one.add_argument_group("what goes in and out")
    given.add_argument(
        "--data", help="the data set, such as a CIFAR-10 folder (default: a study's own, else downloaded)"
    )
    given.add_argument("--out", type=Path, help="output folder, which an earlier call may have begun (default: NAME)")
    given.add_argument(
        "--seeds", type=int, default=3, help="students of each kind; of a study, seeds of everything "
        "(default: %(default)s)",
    )  # fmt: skip
    where = one.add_argument_group("where it is run")
    add_device(where)
    where.add_argument("--processes", type=int, help="students trained side by side (default: one a core)")


def add_completion(commands: Any) -> None:
    """``ddfast completion``."""
    one = command(
        commands, "completion", _completion, help="print a script that completes commands and options in a shell",
        json=False,
        examples=(
            "ddfast completion bash > ~/.local/share/bash-completion/completions/ddfast",
            "ddfast completion zsh > ~/.zfunc/_ddfast   # with fpath+=~/.zfunc before compinit",
            "ddfast completion fish > ~/.config/fish/completions/ddfast.fish",
        ),
    )  # fmt: skip
    one.add_argument("shell", choices=SHELLS, help="bash, zsh or fish; needs shtab: pip install 'ddfast[completion]'")


def _info(arguments: argparse.Namespace) -> Answer:
    from ddfast import build_info
    from ddfast._info import describe

    info = build_info()
    return Answer(describe(info), info)


def _bench(arguments: argparse.Namespace) -> Answer:
    from ddfast.bench.run import run_bench

    # prints its table itself
    code = run_bench(arguments.out, quick=arguments.quick, device=arguments.device, quiet=arguments.quiet)
    return Answer("", json.loads((arguments.out / "bench.json").read_text()) if arguments.json else None, code)


def _demo(arguments: argparse.Namespace) -> Answer:
    from ddfast.demo import run_demo

    # prints its table itself
    run_demo(arguments.out, seed=arguments.seed, overwrite=arguments.overwrite, quiet=arguments.quiet)
    return Answer("", json.loads((arguments.out / "results.json").read_text()))


def _reproduce(arguments: argparse.Namespace) -> Answer:
    from ddfast.reproduce import markdown, reproduce

    table = reproduce(
        arguments.table, arguments.out or Path(arguments.table), data=arguments.data, seeds=arguments.seeds,
        device=arguments.device, processes=arguments.processes, quiet=arguments.quiet,
    )  # fmt: skip
    return Answer(markdown(table), table)


def _completion(arguments: argparse.Namespace) -> Answer:
    from ddfast._cli.commands import make_parser

    return Answer(script(make_parser(), arguments.shell))
