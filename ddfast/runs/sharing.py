"""What workers of one run owe each other: word of what they wait for, no fuss about what another has tidied away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ddfast._printable import printable
from ddfast.runs.atomic import RunError
from ddfast.runs.folder import RUN_FILE
from ddfast.runs.lookout import Lookout


class Superseded(RunError):
    """Work was left in the middle because another worker has finished what it was for."""


def require_wanted(what: Path, wanted: Callable[[], bool] | None) -> None:
    """Stops work that has become needless.

    Args:
        what: file or folder that it fills.
        wanted: whether it is needed still; None for always.

    Raises:
        Superseded: it is not.
    """
    if wanted is not None and not wanted():
        raise Superseded(f"{what}: not needed any more, another worker has done what it was for")


def unclaimed(root: Path) -> bool:
    """Whether there is a run in ``root`` with tasks that nobody works on and nobody failed at."""
    if not (root / RUN_FILE).exists():
        return False
    ledgers = Lookout(root).look().ledgers
    return any(task.state in ("waiting", "expired") for ledger in ledgers for task in ledger.tasks)


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
            print(printable(text), file=sys.stderr, flush=True)

    return tell
