"""Everything that D3's loop draws, each a function of (seed, stream, iteration) alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ddfast.runs import seeds
from ddfast.train.latent.bank import noise


@dataclass(frozen=True)
class Draw:
    """Priors that are decoded together: ``rows`` int64 [b], and ``eps`` [b, z] or None for the means."""

    rows: Tensor
    eps: Tensor | None


@dataclass(frozen=True)
class D3Draws:
    """Draws of a loop over ``priors`` priors with latents of ``z`` numbers; the noise is float32, made on ``device``.

    ``sampling`` False leaves the noise out: means instead of samples.
    """

    seed: int
    stream: str
    priors: int
    z: int
    sampling: bool = True
    device: torch.device | str = "cpu"

    def expert(self, iteration: int, term: int, count: int) -> int:
        """One of ``count`` experts for one of an iteration's two terms: all of them in a new order each pass."""
        number = 2 * iteration + term
        order = seeds.permutation(self.seed, f"{self.stream}/experts", number // count, count)
        return int(order[number % count])

    def epoch(self, iteration: int, window: int) -> int:
        """An epoch for the student to start from, uniform in [0, window)."""
        bits = seeds.counter_bits(self.seed, f"{self.stream}/start", iteration)
        return int(np.ravel(seeds.integers(bits, window))[0])

    def batches(self, iteration: int, steps: int, batch: int) -> list[Draw]:
        """The student's batches: chunks of a new order each pass over all priors, the last (short) chunk first."""
        chosen: list[Tensor] = []
        chunks: list[Tensor] = []
        for number in range(steps):
            if not chunks:
                order = seeds.permutation(self.seed, f"{self.stream}/order", iteration * steps + number, self.priors)
                chunks = list(torch.from_numpy(order).split(batch))
            chosen.append(chunks.pop())
        eps = self._noise("batches", iteration, [len(rows) for rows in chosen])
        return [Draw(rows, part) for rows, part in zip(chosen, eps, strict=True)]

    def samples(self, iteration: int, count: int, name: str = "features") -> list[Draw]:
        """A sample of each prior in order, ``count`` times; once where there is no sampling."""
        count = count if self.sampling else 1
        rows = torch.arange(self.priors)
        return [Draw(rows, part) for part in self._noise(name, iteration, [self.priors] * count)]

    def _noise(self, name: str, iteration: int, sizes: list[int]) -> list[Tensor] | list[None]:
        if not self.sampling:
            return [None] * len(sizes)
        shape = (sum(sizes), self.z)
        eps = noise(self.seed, f"{self.stream}/{name}", iteration, shape=shape, device=self.device)
        return list(eps.split(sizes))
