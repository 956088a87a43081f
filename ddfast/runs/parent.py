"""Helper processes that do not outlive the process that started them."""

from __future__ import annotations

import os
import threading
import time


def end_with_parent(seconds: float = 1.0, parent: int | None = None) -> None:
    """From now on this process ends within ``seconds`` of its parent's end, however that was killed.

    It ends without cleaning up, as if it was killed itself: what it had finished is in its ledger.

    Args:
        seconds: between two looks.
        parent: the parent's process number, for a child that takes so long to start that it may be an orphan by now;
            None for the present one.
    """
    if parent is None:
        parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
