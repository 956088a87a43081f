"""Compares the speed of two git revisions: ``python -m benchmarks.compare BASE HEAD [--threshold 1.1]``.

Both are checked out into temporary worktrees and built. One long-lived process of each runs a fixed list of small CPU
cases in turns, BASE, HEAD, BASE, ..., so that both see the same machine; times are CPU seconds of the process. A case
is slower when the median ratio is above the threshold and its 95 % interval above 1; it is then measured once more by
fresh processes, because the memory layout of a process can cost 10 % by itself, and must be slower again.

Exit code 0: nothing is slower; 1: something is; 2: it could not be measured. Cases that one revision lacks are listed.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.compare import instructions
from benchmarks.compare.ratios import FEWEST_ROUNDS, Measured, measure, table
from benchmarks.compare.workers import CompareError, Worker
from benchmarks.compare.worktrees import Checkout, checkouts

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.rounds < FEWEST_ROUNDS or options.threshold <= 1:
        print(f"--rounds must be at least {FEWEST_ROUNDS} and --threshold above 1", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with checkouts(options.repo, options.base, options.head, native=not options.no_native) as (base, head):
            slower = _times(base, head, options)
            if options.instructions:
                slower |= _instructions(base, head, options)
    except CompareError as error:
        print(f"could not compare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the worktrees are removed", file=sys.stderr)
        return 130
    return int(slower)


def _times(base: Checkout, head: Checkout, options: Any) -> bool:
    found = _measured(base, head, options.cases, options)
    print(table(found, base.name, head.name, options.threshold))
    suspects = [case.name for case in found if case.slower(options.threshold)]
    if not suspects:
        return False
    print(f"again, in fresh processes: {', '.join(suspects)}")
    again = _measured(base, head, suspects, options)
    print(table(again, base.name, head.name, options.threshold))
    confirmed = [case.name for case in again if case.slower(options.threshold)]
    print(f"slower: {', '.join(confirmed)}" if confirmed else "not confirmed: nothing is slower")
    return bool(confirmed)


def _measured(base: Checkout, head: Checkout, names: Sequence[str] | None, options: Any) -> list[Measured]:
    native = not options.no_native
    with Worker(base, native=native) as first, Worker(head, native=native) as second:
        for worker in (first, second):
            for name, reason in worker.lacking.items():
                print(f"{worker.name} lacks {name}: {reason}")
        common = [name for name in first.cases if name in second.cases]
        if unknown := set(names or ()) - set(first.cases) - set(second.cases) - set(first.lacking):
            raise CompareError(f"--cases: no case {', '.join(sorted(unknown))}; there are {', '.join(common)}")
        chosen = [name for name in common if not names or name in names]
        if not chosen:
            raise CompareError("no case that both revisions have")
        return [measure(name, first, second, options.rounds) for name in chosen]


def _instructions(base: Checkout, head: Checkout, options: Any) -> bool:
    if reason := instructions.unavailable(base, head):
        print(f"instruction counts: {reason}")
        return False
    counts = instructions.count_both(base, head)
    print(instructions.table(counts, options.instruction_threshold))
    return any(count.ratio > options.instruction_threshold for count in counts)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__.split("\n\n")[0])
    parser.add_argument("base", help="git revision to compare with")
    parser.add_argument("head", nargs="?", default="HEAD", help="git revision (default: HEAD)")
    parser.add_argument("--threshold", type=float, default=1.1, help="largest ratio HEAD / BASE allowed (default 1.1)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each (default 15)")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="only these cases")
    parser.add_argument("--no-native", action="store_true", help="build nothing: compare Python and plain torch only")
    parser.add_argument(
        "--instructions", action="store_true", help="also count instructions of the C++ kernels (valgrind)"
    )
    parser.add_argument(
        "--instruction-threshold", type=float, default=1.02, help="largest ratio allowed (default 1.02)"
    )
    parser.add_argument("--repo", type=Path, default=ROOT, help="the repository (default: that of this file)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
