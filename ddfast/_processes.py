"""Other processes of this Python."""

from __future__ import annotations

import os
import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """Runs a module as ``python -m`` does, but with this process's ``sys.path``.

    ``-m`` would look into the current folder first: a file there called ``random.py``, or a checkout of ddfast beside
    the installed one, would be imported by the new process and not by this one.
    """
    paths = [path or os.getcwd() for path in sys.path]
    start = f"import sys; sys.path[:] = {paths!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", start, *arguments]
