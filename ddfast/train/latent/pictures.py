"""A distributional set as plain pictures: of each prior its mean and seeded samples."""

from __future__ import annotations

from typing import Any

import torch

from ddfast._types import IMAGENET
from ddfast.data.space import Space
from ddfast.store import DistilledSet
from ddfast.train.latent.distribution import Distribution


def materialised(distilled: DistilledSet, samples: int, *, seed: int = 0) -> DistilledSet:
    """``samples`` pictures of each prior of a distributional set (D3): the decoded mean, then draws.

    Students of the distribution see fresh draws all along; a program that reads pictures sees these alone. They take
    the bytes of pictures, while the distribution takes those of latents and decoders: the manifest's ``materialised``
    has both, {samples, seed, ipc, stored_ipc, stored_bytes}.

    Args:
        distilled: the set.
        samples: K pictures a prior, from 1; prior i becomes rows i K ... i K + K - 1.
        seed: of the draws.

    Returns:
        A set of 8-bit pictures, with the unrounded ones as ``trained_images`` and soft labels repeated.

    Raises:
        ValueError: ``samples`` below 1, or a set without a distribution.
    """
    if samples < 1:
        raise ValueError(f"samples: got {samples!r}, expected 1 or more")
    distribution = Distribution.of(distilled)
    if distribution is None:
        raise ValueError(f"samples: got {samples!r}, but the set is of pictures, no distribution; leave it out")
    drawn = [distribution.samples(seed=seed, epoch=epoch) for epoch in range(samples - 1)]
    floats = torch.stack([distribution.means(), *drawn], 1).flatten(0, 1)
    rows = torch.arange(len(distilled)).repeat_interleave(samples)
    extras = {"trained_images": floats}
    if "soft_logits" in distilled.extras:
        extras["soft_logits"] = distilled.extras["soft_logits"][rows]
    made = DistilledSet(
        Space(distilled.normalization or IMAGENET).invert(floats), distilled.labels[rows], distilled.class_names,
        extras=extras,
    )  # fmt: skip
    gone = ("distribution", "bytes", "storage", "images")
    stored = sum(each.numel() * each.element_size() for each in distilled.extras.values())
    note: dict[str, Any] = {
        "samples": samples, "seed": seed, "ipc": made.ipc, "stored_ipc": distilled.ipc, "stored_bytes": stored,
    }  # fmt: skip
    made.manifest = {key: value for key, value in distilled.manifest.items() if key not in gone}
    made.manifest |= {"space": "normalized", "materialised": note}
    return made
