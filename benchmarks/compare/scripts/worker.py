"""Runs cases of whichever ddfast is on the path; one JSON object a line in and out. Started by a Worker."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from cases import CASES

Runs = dict[str, Callable[[], Any]]


def prepare() -> tuple[dict[str, Any], Runs]:
    """Builds and calls every case once; those that this revision has not got are listed with the reason."""
    import torch

    import ddfast

    torch.set_num_threads(1)
    runs: Runs = {}
    lacking: dict[str, str] = {}
    for name, build in CASES.items():
        try:
            run = build()
            run()
        except (ImportError, AttributeError, TypeError, ValueError, RuntimeError) as error:  # an older interface
            lacking[name] = f"{type(error).__name__}: {error}"
        else:
            runs[name] = run
    return {"package": os.path.realpath(ddfast.__file__), "cases": list(runs), "lacking": lacking}, runs


def cpu_seconds(run: Callable[[], Any], calls: int) -> float:
    """Of the process."""
    start = time.process_time()
    for _ in range(calls):
        run()
    return time.process_time() - start


def main(answers: TextIO) -> None:
    runs: Runs = {}
    for line in sys.stdin:
        message = json.loads(line)
        answer: dict[str, Any]
        if message["do"] == "prepare":
            answer, runs = prepare()
        else:
            answer = {"cpu": cpu_seconds(runs[message["case"]], message["calls"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not get between the answers
    main(channel)
