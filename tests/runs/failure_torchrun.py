"""A rank of a job on several hosts, or the only process: ``python -m tests.runs.failure_torchrun OUT LOG``."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from ddfast.runs import identify_worker
from tests.runs.failure_hosts import note
from tests.runs.failure_phases import PHASES


def main(out: str, log: str) -> None:
    torch.set_num_threads(1)
    me = identify_worker()
    if me.count > 1:
        dist.init_process_group("gloo")
        total = torch.tensor([float(me.index + 1)])
        dist.all_reduce(total)
        note(Path(log), f"{me.index} of {me.count} on {socket.gethostname()}, sum {total.item():g}")
    PHASES["relabel"].run(Path(out))
    if me.count > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
