"""The experts of a run: trained here, trained by an earlier run, or MTT's own replay buffers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ddfast.data.resident import Resident
from ddfast.methods._options import RunOptions
from ddfast.methods.mtt.config import MTTConfig
from ddfast.nets.flat_net import FlatNet
from ddfast.runs import RunError, Task, open_ledger
from ddfast.runs.sharing import teller
from ddfast.store.provenance import normalization_from_json
from ddfast.train.experts import train_experts, trained
from ddfast.train.matching import MatchingData
from ddfast.train.trajectories import EXPERTS_FILE, TrajectoryStore, read_replay_buffers

OWN = "the run's training pictures"
OTHERS = "other pictures too, which may hold the held-out ones"
_APART = 0.01  # constants measured on a part of the pictures differ by less from those of all


def find_experts(
    data: MatchingData, pictures: str, config: MTTConfig, options: RunOptions, out: Path,
    on_expert: Callable[[int], None] | None = None, wanted: Callable[[], bool] | None = None,
) -> tuple[TrajectoryStore, str]:  # fmt: skip
    """Experts for ``config``.

    Args:
        data: the architecture, pictures to train on in the space of the run, and where experts start; ``buffers`` are
            for those that start afresh, others are always trained.
        pictures: fingerprint of the pictures as bytes.
        config, options: of the run.
        out: folder for experts that are trained or imported here.
        on_expert: called with the number of each that is trained.
        wanted: as `train_experts`'s.

    Returns:
        The experts, and for the manifest what they were trained on: "the run's training pictures", or that others may
        be among them (held-out ones too).

    Raises:
        FileNotFoundError: ``buffers`` names a folder without experts.
        ValueError: they are too short for ``expert_epochs`` and ``max_start_epoch``, or of another ZCA state or
            normalisation.
        RunError: they are of another architecture, or damaged.
    """
    net = data.net
    if config.buffers is None or data.starts is not None:
        starts = None if data.starts is None else torch.stack([data.starts[k] for k in range(config.experts)])
        store = train_experts(
            net, data.images, data.labels, config.expert_config(), out, starts=starts, pictures=pictures,
            info=config.expert_info(), device=options.torch_device(), quiet=options.quiet, on_expert=on_expert,
            worker=options.worker(), wanted=wanted,
        )  # fmt: skip
        return store, OWN
    place = Path(config.buffers)
    if (place / EXPERTS_FILE).exists():
        store = trained(place, net)
        _same_space(place, str(store.info.get("space", "unknown")), config)
        _same_normalization(place, store.info.get("normalization"), data)
    else:
        store = _imported(place, net, config, out, options)
    last = config.max_start_epoch - 1 + config.expert_epochs
    if last > store.epochs:
        raise ValueError(
            f"buffers: {place} has {store.epochs} epochs, but max_start_epoch {config.max_start_epoch} and "
            f"expert_epochs {config.expert_epochs} need {last}"
        )
    return store, OWN if store.info.get("pictures") == pictures else OTHERS


def _imported(place: Path, net: FlatNet, config: MTTConfig, out: Path, options: RunOptions) -> TrajectoryStore:
    """MTT's files, written into a store of our own by one worker; what an earlier call imported is kept."""
    files = sorted(place.glob("replay_buffer_*.pt"))
    if not files:
        raise FileNotFoundError(f"buffers: {place} holds neither {EXPERTS_FILE} nor replay_buffer_*.pt")
    _same_space(place, _space_by_name(place), config)
    info = {"net": asdict(net), "imported": [file.name for file in files]}
    with open_ledger(out, ["import"], info, worker=options.worker(), resume=True, outputs=(EXPERTS_FILE,)) as ledger:
        if ledger.completed("import") and not (out / EXPERTS_FILE).exists():
            ledger.forget("import")  # the store was removed since
        task = ledger.claim_or_wait("import", on_wait=teller(options.quiet))
        if task is not None:
            with task:
                _import(files, net, info, out, task)
                task.complete()
        ledger.finish()
    return TrajectoryStore.open(out)


def _import(files: Sequence[Path], net: FlatNet, info: dict[str, Any], out: Path, task: Task) -> None:
    total = sum(1 for _ in read_replay_buffers(files))
    for number, expert in enumerate(read_replay_buffers(files)):
        thetas = [net.join(snapshot) for snapshot in expert]
        store = TrajectoryStore.create(out / EXPERTS_FILE, total, len(thetas) - 1, net.size, info)
        store.begin(number, task)
        for epoch in range(store.epochs_done(number) + 1, len(thetas)):
            if task.lost:
                raise RunError(f"{out}: another worker has taken over the import; start this worker again")
            store.write(number, epoch, thetas[epoch])


def _space_by_name(place: Path) -> str:
    """MTT keeps buffers of whitened CIFAR in <data>, of normalised in <data>_NO_ZCA, whatever is below."""
    if any(part.endswith("_NO_ZCA") for part in place.parts):
        return "normalized"
    return "zca" if any(part.upper() in ("CIFAR10", "CIFAR100") for part in place.parts) else "unknown"


def _same_space(place: Path, there: str, config: MTTConfig) -> None:
    own = config.expert_info()["space"]
    if there not in (own, "unknown"):
        raise ValueError(f"buffers: {place} has experts of {there} pictures, but the run's are {own}; set zca to fit")


def _same_normalization(place: Path, info: Any, data: MatchingData) -> None:
    """Experts of whitened pictures, and those trained by others or before it was noted, do not say theirs."""
    there = normalization_from_json(info)
    if there is None or not isinstance(data.images, Resident):
        return
    own = data.images.normalization
    pairs = zip((*there.mean, *there.std), (*own.mean, *own.std), strict=True)
    if any(abs(a - b) > _APART for a, b in pairs):
        raise ValueError(
            f"buffers: {place} has experts of pictures normalised by mean {list(there.mean)} and std "
            f"{list(there.std)}, but the run's are by mean {list(own.mean)} and std {list(own.std)}; leave it out to "
            "train others"
        )
