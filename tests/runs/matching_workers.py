"""Workers of one matching run as threads, each with a ledger and leases of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ddfast.methods import distill_to
from tests.methods import d3_case, matching_case, pdd_case

_TESTS = {"eval_every": 2, "eval_epochs": 2}
MTT: dict[str, Any] = {**pdd_case.MTT, "experts": 3, "ipc": 2, **_TESTS}
DSA: dict[str, Any] = {
    **matching_case.SETTINGS, "ipc": 2, "width": 8, "outer": 2, "inner": 1, "batch_real": 4, "batch_train": 8,
    "dsa": "color_crop_flip", **_TESTS,
}  # fmt: skip
IDC: dict[str, Any] = {
    **matching_case.SETTINGS, "ipc": 1, "width": 8, "iterations": 4, "inner_loop": 2, "batch_real": 4, "n_data": 8,
    "batch_net": 8, **_TESTS,
}  # fmt: skip
PDD: dict[str, Any] = {
    "base": "mtt", "stages": 3, "ipc_per_stage": 1, "transition_epochs": 2,
    "base_option": {**pdd_case.MTT, "iterations": 2, "experts": 3, "eval_epochs": 1},
}  # fmt: skip
D3 = {**d3_case.TINY, "blocks": 3, "iterations": 2, "experts": 2, "soft_labels": "expert", "eval_epochs": 1}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "mtt": ("mtt", MTT),
    "dsa": ("dsa", DSA),
    "dm": ("dm", {**matching_case.SETTINGS, "ipc": 2, "batch_real": 4, "width": 8, **_TESTS}),
    "idc": ("idc", IDC),
    "pdd": ("pdd", PDD),
    "d3": ("d3", D3),
}


def work(name: str, out: Path, index: int = 0, count: int = 1, **changes: Any) -> None:
    """One worker's whole run, in this thread."""
    torch.set_num_threads(1)  # a thread begins with all cores; last bits depend on it
    method, settings = RUNS[name]
    source = d3_case.source() if method == "d3" else matching_case.source()
    given: dict[str, Any] = {"quiet": True, "device": "cpu", "resume": True, **settings, **changes}
    distill_to(method, source, out, shard=f"{index}/{count}", **given)


def together(name: str, out: Path, count: int, **changes: Any) -> None:
    """The run by ``count`` workers at once; the error of any of them is raised."""
    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(work, name, out, index, count, **changes) for index in range(count)]:
            future.result(300)


def start(action: Callable[[], None]) -> Future[None]:
    """In a thread of its own; ``result()`` raises what it raised."""
    future: Future[None] = Future()

    def run() -> None:
        try:
            future.set_result(action())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


class Hold:
    """A function that stands still in one thread at its ``number``-th call there, until it is let go."""

    def __init__(self, plain: Callable[..., Any], number: int = 1) -> None:
        self.plain, self.number, self.calls = plain, number, 0
        self.thread: int | None = None
        self.reached, self.go = threading.Event(), threading.Event()

    def here(self) -> None:
        """It is this thread that is to stand still."""
        self.thread = threading.get_ident()

    def __call__(self, *args: Any, **named: Any) -> Any:
        if threading.get_ident() == self.thread:
            self.calls += 1
            if self.calls == self.number:
                self.reached.set()
                assert self.go.wait(120), "was never let go"
        return self.plain(*args, **named)
