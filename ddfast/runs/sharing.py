"""What workers of one run owe each other: word of what they wait for, no fuss about what another has tidied away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ddfast.runs.atomic import RunError


class Superseded(RunError):
    """Work was left in the middle because another worker has finished what it was for."""


@contextmanager
def unless(done: Callable[[], bool]) -> Iterator[None]:
    """Errors inside count for nothing if the work is done by then: another worker did it, and removed what it was made
    of, or took over what this one held while it stood still.

    Args:
        done: whether the work is done.
    """
    try:
        yield
    except (RunError, FileNotFoundError, FileExistsError):
        if not done():
            raise


def teller(quiet: bool) -> Callable[[str], None]:
    """For `Ledger.claim_or_wait`'s ``on_wait``: says on standard error what this worker waits for."""

    def tell(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr, flush=True)

    return tell
