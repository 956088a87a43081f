"""One block of classes, distilled on its own: its pictures, experts, decoder and priors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddfast.data import Source
from ddfast.methods._options import RunOptions
from ddfast.methods.d3.config import D3Config

if TYPE_CHECKING:
    from ddfast.train.latent.distribution import LatentBlock


@dataclass
class DistilledBlock:
    """What a block leaves.

    Attributes:
        latents: priors and decoder; its ``labels`` are classes of the whole set.
        lr: the students' rate that was learned; None without trajectory matching.
        losses: of each iteration, both terms weighted and summed.
        tests: ``{"iteration", "top1" (on the block's own classes), "lr"}`` of each test on held-out pictures.
        notes: JSON values for the manifest (both terms' loss curves, number of held-out and training pictures).
    """

    latents: LatentBlock
    lr: float | None
    losses: list[float]
    tests: list[dict[str, float]]
    notes: dict[str, Any] = field(default_factory=dict)


def distil_block(
    source: Source, classes: Sequence[int], config: D3Config, folder: Path, options: RunOptions, *, block: int = 0
) -> DistilledBlock:
    """Trains the block's experts and distils it; called again after an interruption it goes on to the same numbers.

    ``folder`` (made if missing) holds ``experts/``, ``checkpoint.pt`` and pictures of the means and samples. The caller
    keeps what is returned and removes the checkpoint; until then another call returns the same at once.

    Args:
        source: of the whole set; only pictures of ``classes`` are read.
        classes: of the whole set, ascending; label k within the block is ``classes[k]``.
        config: of the run.
        folder: the block's own.
        options: of the run.
        block: its number, which begins the names of its random streams.

    Raises:
        ValueError: settings and source do not fit together.
        NonFiniteLossError: an expert or the matching diverged; go on with other settings in another folder.
        ddfast.runs.RunError: the folder holds other experts or a damaged checkpoint, or the disk is full.
    """
    raise NotImplementedError
