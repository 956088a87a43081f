"""The priors of one subtask of D3 (arXiv 2403.00999) and the decoder that they share."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast.nets.decoder import Decoder
from ddfast.train.latent.bank import sample

_PART = 256  # latents that an independent ("running") decoder takes at once


@dataclass
class LatentBlock:
    """The priors of one subtask: ``latents`` float32 [n, z, 2] (mean, log-variance) and ``labels`` int64 [n] of them,
    global classes, with the ``decoder`` that all share. ``batch``: priors decoded in one call, whose pictures batch
    norm couples; None for all of the block.

    Raises:
        TypeError, ValueError: tensors of another dtype or shape, or of another decoder.
    """

    latents: Tensor
    labels: Tensor
    decoder: Decoder
    batch: int | None = None

    def __post_init__(self) -> None:
        z = self.decoder.config.latent_size
        if not self.latents.is_floating_point():
            raise TypeError(f"latents: got {self.latents.dtype}, expected a floating-point type")
        if self.latents.ndim != 3 or self.latents.shape[1:] != (z, 2):
            raise ValueError(
                f"latents: got shape {list(self.latents.shape)}, expected [n, {z}, 2] for a {self.decoder.config.kind} "
                "decoder"
            )
        if self.labels.dtype != torch.int64:
            raise TypeError(f"labels: got {self.labels.dtype}, expected torch.int64")
        if self.labels.shape != self.latents.shape[:1]:
            raise ValueError(f"labels: got shape {list(self.labels.shape)} for {len(self.latents)} priors")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch: got {self.batch!r}, expected 1 or more, or None for all priors")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        """Of the latents."""
        return self.latents.device

    def decode(self, z: Tensor) -> Tensor:
        """Pictures float32 [n, 3, S, S] of latents [n, z], ``batch`` at a time, without gradients."""
        decoder = self.decoder
        independent = decoder.config.batch_norm == "running"
        part = _PART if independent else (self.batch or max(len(z), 1))
        mode = decoder.training
        decoder.train(not independent)
        try:
            with torch.no_grad():
                return torch.cat([decoder(rows) for rows in z.split(part)])
        finally:
            decoder.train(mode)

    def means(self) -> Tensor:
        """The pictures of the means, float32 [n, 3, S, S] in normalised pixels."""
        return self.decode(self.latents.detach()[:, :, 0])

    def samples(self, eps: Tensor) -> Tensor:
        """A picture of each prior, float32 [n, 3, S, S], with ``eps`` [n, z] standard normal."""
        return self.decode(sample(self.latents.detach(), eps.to(self.device)))

    def grid(self, corners: tuple[int, int, int, int], steps: int = 7) -> Tensor:
        """Pictures between four priors' means: float32 [steps, steps, 3, S, S], bilinear in latent space.

        Args:
            corners: rows of the priors at top left, top right, bottom left and bottom right.
            steps: pictures a side.

        Batch norm takes the statistics of all means of the block decoded in one call, so that a corner of a block with
        ``batch`` None is its mean picture.

        Raises:
            ValueError: no such row, or fewer than two steps.
        """
        if len(corners) != 4 or not all(0 <= row < len(self) for row in corners):
            raise ValueError(f"corners: got {corners}, expected four rows from 0 to {len(self) - 1}")
        if steps < 2:
            raise ValueError(f"steps: got {steps!r}, expected 2 or more")
        means = self.latents.detach()[:, :, 0]
        share = torch.linspace(0, 1, steps, device=self.device)
        right, down = share[None, :, None], share[:, None, None]
        a, b, c, d = means[list(corners)]
        z = ((1 - down) * ((1 - right) * a + right * b) + down * ((1 - right) * c + right * d)).flatten(0, 1)
        if self.decoder.config.batch_norm == "running":
            pictures = self.decode(z)
        else:
            with torch.no_grad():
                pictures = self.decoder(z, statistics=self.decoder.statistics(means))
        return pictures.view(steps, steps, *pictures.shape[1:])
