"""One block of classes, distilled on its own: its pictures, experts, decoder and priors."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ddfast.data import Source
from ddfast.methods._driver import EXPERTS, Loop, loss_curve
from ddfast.methods._options import RunOptions
from ddfast.methods._problem import Problem
from ddfast.methods.d3.config import D3Config
from ddfast.nets.decoder import make_decoder
from ddfast.nets.flat_convnet import FlatConvNet
from ddfast.runs import TIMINGS_FILE, Task, Timings, atomic_write_bytes
from ddfast.store import DistilledSet, contact_sheet_png
from ddfast.train.experts import train_experts
from ddfast.train.latent.bank import initial_latents
from ddfast.train.latent.distribution import LatentBlock
from ddfast.train.latent.matcher import D3Matcher, D3Settings
from ddfast.train.latent.real_pictures import RealPictures
from ddfast.train.trajectories import TrajectoryStore

SAMPLES = "samples.png"
_STREAM = "d3"
_COLUMNS = 10  # of a sheet


@dataclass
class DistilledBlock:
    """What a block leaves.

    Attributes:
        latents: priors and decoder; its ``labels`` are classes of the whole set.
        lr: the students' rate that was learned; None without trajectory matching.
        losses: of each iteration, both terms weighted and summed.
        tests: ``{"iteration", "top1" (on the block's own classes), "lr"}`` of each test on held-out pictures.
        notes: JSON values for the manifest: ``trajectory_losses`` and ``mmd_losses`` (of a term that takes part),
            ``pictures`` and ``held_out``, how many real ones there were.
    """

    latents: LatentBlock
    lr: float | None
    losses: list[float]
    tests: list[dict[str, float]]
    notes: dict[str, Any] = field(default_factory=dict)


def distil_block(
    source: Source, classes: Sequence[int], config: D3Config, folder: Path, options: RunOptions, *, block: int = 0,
    task: Task | None = None,
) -> DistilledBlock:  # fmt: skip
    """Trains the block's experts and distils it; called again after an interruption it goes on to the same numbers.

    ``folder`` (made if missing) holds ``experts/``, ``checkpoint.pt``, ``timings.json`` and pictures of the means and
    samples. The caller keeps what is returned and removes the checkpoint; until then another call returns the same.

    Args:
        source: of the whole set; only pictures of ``classes`` are read.
        classes: of the whole set, ascending; label k within the block is ``classes[k]``.
        config: of the run.
        folder: the block's own.
        options: of the run.
        block: its number, which begins the names of its random streams.
        task: what this worker holds for it; once another has taken that over, nothing more is written.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: an expert or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the folder holds other experts or a damaged checkpoint, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    problem = block_problem(source, classes, config, options, Timings(folder / TIMINGS_FILE))
    matcher = _matcher(problem, config, folder, options, block)
    course = Loop(matcher, problem, folder, options, stream=f"{_STREAM}/block {block}", task=task).run()
    _show_samples(matcher, problem, folder)
    latents = LatentBlock(
        matcher.latents.detach().cpu(), torch.tensor(list(classes))[matcher.labels.cpu()],
        copy.deepcopy(matcher.decoder).cpu(),
    )  # fmt: skip
    notes: dict[str, Any] = {"pictures": len(problem.labels), "held_out": len(problem.test_labels)}
    for name, weight, losses in zip(
        ("trajectory_losses", "mmd_losses"), (config.mtt_weight, config.mmd_weight), matcher.history.T, strict=True
    ):
        if weight:
            notes[name] = loss_curve(losses.tolist())
    return DistilledBlock(latents, matcher.learned_lr(), course.losses, course.tests, notes)


def help_block(
    source: Source, classes: Sequence[int], config: D3Config, folder: Path, options: RunOptions,
    wanted: Callable[[], bool],
) -> None:  # fmt: skip
    """Trains experts of a block that another worker distils.

    Args:
        source, classes, config, folder, options: as `distil_block`'s.
        wanted: whether the block is still to be done.

    Raises:
        NonFiniteLossError: an expert diverged.
        ddfast.runs.RunError: as `distil_block`; `Superseded` if the block is done by now.
    """
    problem = block_problem(source, classes, config, options, Timings(folder / TIMINGS_FILE))
    _experts(problem, config, folder / EXPERTS, options, wanted)


def block_problem(
    source: Source, classes: Sequence[int], config: D3Config, options: RunOptions, timings: Timings | None = None
) -> Problem:
    """The pictures of some classes, labelled 0, 1, ...; those held out are the same in whatever block a class is.

    Raises:
        ValueError: a class has too few readable pictures.
    """
    part = ClassesOf(source, classes)
    return Problem(part, config.matching_config(), options, _STREAM, 1, timings, numbers=part.classes)


class ClassesOf:
    """A `Source` of some classes of another one, in the order given.

    Raises:
        ValueError: no class, one twice, or one that the source does not have.
    """

    def __init__(self, source: Source, classes: Sequence[int]) -> None:
        self.source, self.classes = source, tuple(int(label) for label in classes)
        count = len(source.class_names)
        if not self.classes or len(set(self.classes)) < len(self.classes) or not set(self.classes) <= set(range(count)):
            raise ValueError(
                f"classes: got {list(self.classes)[:20]}, expected different labels from 0 to {count - 1}, at least one"
            )
        self.name = source.name
        self.class_names = tuple(source.class_names[label] for label in self.classes)

    def count(self, label: int) -> int:
        """See `Source`."""
        return self.source.count(self.classes[label])

    def sample_id(self, label: int, position: int) -> str:
        """See `Source`."""
        return self.source.sample_id(self.classes[label], position)

    def load(self, label: int, position: int) -> bytes | NDArray[np.uint8]:
        """See `Source`."""
        return self.source.load(self.classes[label], position)

    def fingerprint(self) -> str:
        """Of the whole source and the classes chosen."""
        return hashlib.sha256(f"{self.source.fingerprint()}|{self.classes}".encode()).hexdigest()


def _matcher(problem: Problem, config: D3Config, folder: Path, options: RunOptions, block: int) -> D3Matcher:
    """Trains the block's experts in ``folder``, and begins from fresh latents and a fresh decoder."""
    net, device = problem.net, problem.device
    assert isinstance(net, FlatConvNet)
    store = _experts(problem, config, folder / EXPERTS, options)
    stream = f"{_STREAM}/block {block}"
    names = {f.name for f in fields(D3Settings)}
    chosen = {f.name: getattr(config, f.name) for f in fields(config) if f.name in names}
    settings = D3Settings(**chosen, draws=config.draws, stream=stream)
    decoder = make_decoder(config.decoder_config(), config.seed, f"{stream}/decoder").to(device)
    latents = initial_latents(
        net.num_classes, config.lpc, decoder.config.latent_size, seed=config.seed, stream=f"{stream}/latents"
    )
    labels = torch.arange(net.num_classes, device=device).repeat_interleave(config.lpc)
    real = RealPictures(problem.pictures.to(device), problem.labels.to(device), problem.space.normalization)
    return D3Matcher(net, store, settings, latents.to(device), labels, decoder, real)


def _experts(
    problem: Problem, config: D3Config, folder: Path, options: RunOptions, wanted: Callable[[], bool] | None = None
) -> TrajectoryStore:
    with problem.timings.part("experts"):
        return train_experts(
            problem.net, *problem.resident(), config.expert_config(), folder, pictures=problem.fingerprint,
            info={"space": "normalized"}, device=problem.device, quiet=options.quiet, worker=options.worker(),
            wanted=wanted,
        )  # fmt: skip


def _show_samples(matcher: D3Matcher, problem: Problem, folder: Path) -> None:
    """A picture of the first prior of each class: its mean, then samples."""
    first = torch.arange(0, len(matcher.labels), matcher.lpc, device=matcher.labels.device)
    sheets = [matcher.stored()[0][first]]
    if matcher.settings.sampling:
        sheets += [pictures[first] for pictures in matcher.samples(_COLUMNS - 1)]
    shown: DistilledSet = problem.distilled(torch.cat(sheets), matcher.labels[first].repeat(len(sheets)))
    caption = "first prior of each class: mean" + (" and samples" if len(sheets) > 1 else "")
    atomic_write_bytes(folder / SAMPLES, contact_sheet_png(shown, caption=caption))
