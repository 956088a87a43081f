"""ZCA whitening of whole pictures, as MTT and its kin apply to CIFAR before everything else; with its exact inverse."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ddfast.store.whitening import Whitening, flat_pixels

EPS = 0.1
_ROWS = 4096


@dataclass(frozen=True)
class ZCA(Whitening):
    """``white = (x - mean) T`` with ``T = U diag(1 / sqrt(s + eps)) U^T`` and ``T^-1 = U diag(sqrt(s + eps)) U^T``.

    x is a picture in [0, 1] flattened in [channel, row, column] order; U and s are eigenvectors and eigenvalues of the
    covariance of the training pictures (divided by their number less one). ``mean`` float32 [D], ``matrix`` and
    ``inverse`` float32 [D, D]. The same matrices as kornia's ZCAWhitening(eps=0.1), found in float64.
    """

    inverse: Tensor

    @classmethod
    def fit(cls, images: Tensor, eps: float = EPS) -> ZCA:
        """From training pictures.

        Args:
            images: uint8 [N, H, W, 3].
            eps: added to the eigenvalues.

        Raises:
            ValueError: fewer than two pictures.
        """
        if len(images) < 2:
            raise ValueError(f"images: got {len(images)}, expected at least two to find a covariance")
        size = images[0].numel()
        total, square = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        for part in images.split(_ROWS):
            rows = flat_pixels(part).double()
            total, square = total + rows.sum(0), square + rows.T @ rows
        mean = total / len(images)
        covariance = (square - len(images) * torch.outer(mean, mean)) / (len(images) - 1)
        values, vectors = torch.linalg.eigh(covariance)
        root = (values.clamp_min(0) + eps).sqrt()
        matrix, inverse = ((vectors * scale) @ vectors.T for scale in (1 / root, root))
        return cls(mean.float(), matrix.float(), inverse.float())

    def invert(self, white: Tensor) -> Tensor:
        """Whitened [N, 3, H, W] to pictures, float32 [N, H, W, 3], whose visible range is [0, 1]."""
        n, c, h, w = white.shape
        rows = white.float().flatten(1) @ self.inverse + self.mean
        return rows.reshape(n, c, h, w).permute(0, 2, 3, 1)
