"""The experts of a run: trained here, trained by an earlier run, or MTT's own replay buffers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from ddfast.methods._options import RunOptions
from ddfast.methods.mtt.config import MTTConfig
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.train.experts import ExpertConfig, train_experts, trained
from ddfast.train.trajectories import EXPERTS_FILE, TrajectoryStore, read_replay_buffers


def find_experts(
    net: FlatConvNet, images: Tensor, labels: Tensor, config: MTTConfig, options: RunOptions, out: Path
) -> TrajectoryStore:
    """Experts for ``config``.

    Args:
        net: the architecture.
        images, labels: pictures to train on, in the space of the run.
        config, options: of the run.
        out: folder for experts that are trained or imported here.

    Raises:
        FileNotFoundError: ``buffers`` names a folder without experts.
        ValueError: they are too short for ``expert_epochs`` and ``max_start_epoch``, or of another ZCA state.
        RunError: they are of another architecture, or damaged.
    """
    if config.buffers is None:
        recipe = ExpertConfig(
            config.experts, config.expert_train_epochs, config.expert_batch, config.expert_lr, config.dsa,
            config.precision, config.seed,
        )  # fmt: skip
        space = "zca" if config.zca else "normalized"
        return train_experts(
            net, images, labels, recipe, out, info={"space": space}, device=options.torch_device(), quiet=options.quiet
        )
    place = Path(config.buffers)
    if (place / EXPERTS_FILE).exists():
        store = trained(place, net)
        _same_space(place, str(store.info.get("space", "unknown")), config)
    else:
        store = _imported(place, net, config, out)
    last = config.max_start_epoch - 1 + config.expert_epochs
    if last > store.epochs:
        raise ValueError(
            f"buffers: {place} has {store.epochs} epochs, but max_start_epoch {config.max_start_epoch} and "
            f"expert_epochs {config.expert_epochs} need {last}"
        )
    return store


def _imported(place: Path, net: FlatConvNet, config: MTTConfig, out: Path) -> TrajectoryStore:
    files = sorted(place.glob("replay_buffer_*.pt"))
    if not files:
        raise FileNotFoundError(f"buffers: {place} holds neither {EXPERTS_FILE} nor replay_buffer_*.pt")
    known = [part for part in place.parts if part.endswith("_NO_ZCA")]
    _same_space(place, "normalized" if known else "unknown", config)
    experts = [[net.join(snapshot) for snapshot in expert] for expert in read_replay_buffers(files)]
    lengths = {len(expert) for expert in experts}
    if len(lengths) != 1:
        raise ValueError(f"buffers: {place} has experts of {sorted(lengths)} snapshots, expected all of one length")
    info = {"net": asdict(net), "imported": [file.name for file in files]}
    store = TrajectoryStore.create(out / EXPERTS_FILE, len(experts), lengths.pop() - 1, net.size, info)
    for number, expert in enumerate(experts):
        for epoch in range(store.epochs_done(number) + 1, len(expert)):
            store.write(number, epoch, expert[epoch])
    return store


def _same_space(place: Path, there: str, config: MTTConfig) -> None:
    here = "zca" if config.zca else "normalized"
    if there not in (here, "unknown"):
        raise ValueError(f"buffers: {place} has experts of {there} pictures, but the run's are {here}; set zca to fit")
