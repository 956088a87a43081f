"""One student trained by several processes: torch's DistributedDataParallel among the ranks that torchrun starts.

Views are counted, not drawn one after the other, so every rank draws the same batch and makes all of its views (the
partners of CutMix may be anyone's rows), then trains on its own rows: contiguous parts, as equal as they can be. Its
mean loss counts by its rows, so that the mean of the ranks' gradients is the gradient of the whole batch; batch norm
takes its statistics from the whole batch. A batch of fewer samples than ranks is done whole by each. Weights, optimiser
and moving average are therefore the same on all ranks, and those of one process up to the order of summation. Only
dropout and its like differ: every rank draws for its own rows.

Every rank keeps the whole set and gives the same arguments; rank 0 alone writes checkpoints, which any number of ranks
goes on from. A rank that ends takes the others with it (`joined`).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ddfast.runs import RunError, Worker, identify_worker
from ddfast.train.objective import Objective
from ddfast.train.whole_batch_norm import whole_batch_norms

LOST = 600.0  # seconds in which a collective step of a training has to end
_PATIENCE = timedelta(days=7)  # others wait while rank 0 looks for a task; a rank that ended is noticed at once
# a rank's statistics are those of all; torch has renamed the option
_NAMES = ("forward_sync_buffers", "broadcast_buffers")
_OPTIONS = signature(nn.parallel.DistributedDataParallel).parameters
_OWN_BUFFERS: dict[str, Any] = dict.fromkeys([name for name in _NAMES if name in _OPTIONS][:1], False)
_SIGNS = ("gloo", "nccl", "Connection closed", "Connection reset", "Broken pipe", "Timed out waiting")


@dataclass(frozen=True)
class Group:
    """The ranks that train together: this is ``rank`` of ``count``, ``local`` of ``local_count`` on its machine.

    ``device`` is where it trains; ``control`` carries messages and counts, apart from gradients.
    """

    rank: int
    count: int
    local: int
    local_count: int
    device: str
    control: dist.ProcessGroup

    @property
    def leads(self) -> bool:
        """Whether this rank keeps the ledger, and writes checkpoints and reports."""
        return self.rank == 0

    def rows(self, total: int) -> slice:
        """This rank's part of a batch: contiguous, the first ``total % count`` ranks have one row more."""
        each, more = divmod(total, self.count)
        first = self.rank * each + min(self.rank, more)
        return slice(first, first + each + (self.rank < more))

    def tell(self, value: Any = None) -> Any:
        """Rank 0's JSON value, on every rank."""
        data = torch.frombuffer(bytearray(json.dumps(value if self.leads else None).encode()), dtype=torch.uint8)
        size = torch.tensor([len(data)])
        dist.broadcast(size, 0, group=self.control)
        data = data if self.leads else torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self.control)
        return json.loads(data.numpy().tobytes())

    def add(self, values: Tensor) -> Tensor:
        """Sum over the ranks, of a tensor on the CPU."""
        total = values.clone()
        dist.all_reduce(total, group=self.control)
        return total

    def average(self, values: Tensor) -> None:
        """Puts the mean over the ranks in the place of ``values``, on the training's device."""
        dist.all_reduce(values)
        values /= self.count

    def same(self, what: str, value: Any) -> None:
        """Stops all ranks unless they have the same JSON value.

        Raises:
            RunError: they differ.
        """
        digest = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
        mine = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
        found = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(found, mine, group=self.control)
        if not all(torch.equal(each, found[0]) for each in found):
            raise RunError(
                f"{what}: not the same on all ranks; give them the same arguments, and an output folder that all see"
            )

    def worker(self, worker: Worker | None = None) -> Worker:
        """Who the ranks are together, for the ledger: what ``--shard`` says, else alone, started again if they were."""
        me = worker or identify_worker()
        return Worker(0, 1, self.local, me.launcher, me.restarted) if me.launcher == "torchrun" else me


@contextmanager
def joined(device: str = "auto", *, lost: float = LOST) -> Iterator[Group]:
    """The group of all ranks of this launch, with gloo on CPUs and NCCL on GPUs (a rank each).

    A rank that ends closes its connections, and the others end in a `RunError` at their next collective step; one that
    stands still is given up after ``lost`` seconds. Under ``torchrun --max-restarts`` all begin again, from the last
    checkpoint. A process group that is there already is used, and left as it is. All this is tested on CPUs; NCCL on
    several GPUs has not been run yet.

    Args:
        device: cpu, cuda or auto.
        lost: seconds that a rank may be behind within a training.

    Raises:
        ValueError: not started by torchrun, fewer GPUs than local ranks, or another device.
        RunError: another rank ended or stood still.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device: got {device!r} with data_parallel, expected auto, cpu or cuda (a GPU a rank)")
    mine = not dist.is_initialized()
    if mine and not {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise ValueError(
            "data_parallel: this process is no rank of a launch (RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are not "
            "all set); start it with torchrun, such as torchrun --nproc-per-node 2 -m ddfast evaluate ..."
        )
    local, cuda = int(os.environ.get("LOCAL_RANK", "0")), device != "cpu" and torch.cuda.is_available()
    local_count = int(os.environ.get("LOCAL_WORLD_SIZE", str(local + 1)))
    if device == "cuda" and not cuda:
        raise ValueError("device: got 'cuda', but PyTorch sees no CUDA device here; give cpu or auto")
    if cuda and local_count > torch.cuda.device_count():
        raise ValueError(
            f"data_parallel: got {local_count} ranks on a machine with {torch.cuda.device_count()} GPUs; start at most "
            "one rank a GPU (torchrun --nproc-per-node), or give device='cpu'"
        )
    if cuda:
        torch.cuda.set_device(local)
    ended = False
    try:
        if mine:
            _begin("cpu:gloo,cuda:nccl" if cuda else "gloo", timedelta(seconds=lost))
        control = dist.new_group(backend="gloo", timeout=_PATIENCE)
        where = f"cuda:{local}" if cuda else "cpu"
        if not isinstance(control, dist.ProcessGroup):
            raise RuntimeError("torch.distributed: the process group there is does not include this rank")
        yield Group(dist.get_rank(), dist.get_world_size(), local, local_count, where, control)
        ended = True
    except RuntimeError as error:
        if isinstance(error, RunError) or not any(sign in str(error) for sign in _SIGNS):
            raise
        raise RunError(
            f"another rank ended or stood still ({str(error).split('. ')[0]}); see the first error of all"
        ) from error
    finally:
        if mine and dist.is_initialized() and (ended or not cuda):  # NCCL would wait for ranks that are gone
            dist.destroy_process_group()


def _begin(backend: str, timeout: timedelta) -> None:
    """The process group of torchrun's ranks, with keys of its own after each restart: the agent's store may still have
    the addresses of ranks that are gone, for which new ones would wait."""
    store, rank, count = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"ddfast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=timeout)


@contextmanager
def spread(model: nn.Module, objective: Objective, group: Group | None) -> Iterator[Objective]:
    """The objective of a rank's rows within; the loss it returns has to be averaged over the ranks.

    Args:
        model: what is trained; its batch norms take the statistics of whole batches within.
        objective: of whole batches; all tensors it prepares have the samples along their first dimension, or none.
        group: None leaves everything as it is.

    Raises:
        ValueError: several models at once, an objective of one piece, or a layer whose statistics cannot be shared.
    """
    if group is None:
        yield objective
        return
    if objective.models:
        raise ValueError(f"data_parallel: got {objective.models} models trained at once, expected one; train in turns")
    with whole_batch_norms(model) as norms:
        own = nn.parallel.DistributedDataParallel(_OwnLoss(model, objective), **_OWN_BUFFERS)

        def loss(*tensors: Tensor) -> Tensor:
            total = len(tensors[0]) if tensors and tensors[0].ndim else 0
            if not total or any(value.ndim and len(value) != total for value in tensors):
                shapes = [list(value.shape) for value in tensors]
                raise ValueError(f"data_parallel: got an objective of {shapes}, expected samples first in each")
            apart = total < group.count
            for norm in norms:
                norm.apart = apart  # type: ignore[assignment]
            rows = slice(0, total) if apart else group.rows(total)
            part: Tensor = own(*(value[rows] if value.ndim else value for value in tensors))
            return part if apart else part * ((rows.stop - rows.start) * group.count / total)

        yield replace(objective, loss=loss)


class _OwnLoss(nn.Module):
    """What DistributedDataParallel wraps: the loss, so that its hooks see all of a forward."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.loss = model, objective.loss

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.loss(*tensors)
