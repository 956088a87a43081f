"""The decoders of D3 (Qin et al., "Distributional Dataset Distillation with Subtask Decomposition", arXiv 2403.00999).

A decoder turns latent vectors into normalised pictures. ``make_decoder`` draws its weights as PyTorch initialises
layers, from a counter-based stream of its own; torch's global generator is left alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ddfast.nets.decoder_config import BATCH_NORMS, KINDS, SIDE, SIZES, DecoderConfig

__all__ = ["BATCH_NORMS", "KINDS", "SIZES", "Decoder", "DecoderConfig", "Statistics", "make_decoder"]

_SLOPE = 0.01
Statistics = Sequence[tuple[Tensor, Tensor]]


class Decoder(nn.Module):
    """Pictures float [n, 3, S, S] in normalised pixels, within +-``config.scale``, of latents [n, latent_size].

    Weights are zero until `make_decoder` or ``load_state_dict`` sets them.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        widths = config.widths
        with torch.device("meta"):  # no draw from the global generator
            self.first = None if config.kind == "large" else nn.Linear(config.latent_size, 4 * widths[0])
            self.blocks = nn.ModuleList(_Block(before, after, config) for before, after in pairwise(widths))
            self.head = nn.Conv2d(widths[-1], 3, 3, padding=1)
        self.to_empty(device="cpu")
        for tensor in (*self.parameters(), *self.buffers()):
            nn.init.zeros_(tensor)
        for norm in self.norms:
            norm.reset_parameters()

    @property
    def norms(self) -> list[nn.BatchNorm2d]:
        """The batch norms in order."""
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]

    def forward(self, z: Tensor, groups: int = 1, statistics: Statistics | None = None) -> Tensor:
        """Decode.

        Args:
            z: float [n, latent_size].
            groups: ghost batch norm: z is so many equal consecutive parts, each normalised by its own statistics, as
                separate calls would be.
            statistics: (mean, biased variance) of each batch norm, as `statistics` gives; None for those of the call
                (or the running ones, see `DecoderConfig`).

        Returns:
            [n, 3, S, S], of z's dtype and device.

        Raises:
            ValueError: another shape, or groups that do not divide n.
        """
        self._check(z, groups)
        if not len(z):
            return z.new_zeros(0, 3, self.config.size, self.config.size)
        x = self._planes(z)
        for place, block in enumerate(self._blocks):
            x = block(x, groups, None if statistics is None else statistics[place])
        pictures = torch.tanh(self.head(x)).contiguous()
        return pictures if self.config.scale == 1 else pictures * self.config.scale

    @torch.no_grad()
    def statistics(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, biased variance) of each batch norm's input when z [n, latent_size] is decoded in one call."""
        found: list[tuple[Tensor, Tensor]] = []
        self._check(z, 1)
        x = self._planes(z)
        for block in self._blocks:
            var, mean = torch.var_mean(block.conv(x), (0, 2, 3), correction=0)
            found.append((mean, var))
            x = block(x, 1, found[-1])
        return found

    def _planes(self, z: Tensor) -> Tensor:
        """[n, widths[0], 2, 2]. oneDNN is faster on the CPU when channels come last; in float64 nothing is gained."""
        planes: Tensor = (z if self.first is None else self.first(z)).view(len(z), self.config.widths[0], SIDE, SIDE)
        if z.device.type == "cpu" and z.dtype == torch.float32:
            return planes.contiguous(memory_format=torch.channels_last)
        return planes

    @property
    def _blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)]

    def _check(self, z: Tensor, groups: int) -> None:
        if z.ndim != 2 or z.shape[1] != self.config.latent_size:
            raise ValueError(f"z: got shape {list(z.shape)}, expected [n, {self.config.latent_size}]")
        if groups < 1 or len(z) % groups:
            raise ValueError(f"groups: got {groups!r} for {len(z)} latents, expected a divisor")


class _Block(nn.Module):
    """Transposed convolution that doubles the side, batch norm, LeakyReLU."""

    def __init__(self, before: int, after: int, config: DecoderConfig) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            before, after, config.kernel, stride=2, padding=1, output_padding=4 - config.kernel
        )
        self.norm = nn.BatchNorm2d(after, track_running_stats=config.batch_norm == "running")

    def forward(self, x: Tensor, groups: int, statistics: tuple[Tensor, Tensor] | None) -> Tensor:
        x, norm = self.conv(x), self.norm
        if statistics is not None:
            x = F.batch_norm(x, *statistics, norm.weight, norm.bias, training=False, eps=norm.eps)
        elif groups == 1 or not (self.training or norm.running_mean is None):
            x = norm(x)
        else:
            x = torch.cat([norm(part) for part in x.split(len(x) // groups)])
        return F.leaky_relu(x, _SLOPE, inplace=True)


def make_decoder(config: DecoderConfig, seed: int, stream: str) -> Decoder:
    """A decoder with fresh float32 weights on the CPU, a function of (config, seed, stream) alone.

    PyTorch's default distributions: weight and bias uniform in +- 1 / sqrt(fan in), where the fan in of a transposed
    convolution is its *outputs* times the kernel's area, as PyTorch counts; batch norm 1 and 0.

    Raises:
        ValueError: ``seed`` is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: got {seed!r}, expected 0 or more")
    decoder = Decoder(config)
    with torch.no_grad():
        for name, module in decoder.named_modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                bound = 1 / math.sqrt(math.prod(module.weight.shape[1:]))
                for part, parameter in module.named_parameters():
                    drawn = _uniform(f"{seed}|{stream}|{name}.{part}", parameter.numel())
                    parameter.copy_(torch.from_numpy((drawn * 2 - 1) * bound).view_as(parameter))
    return decoder


def _uniform(key: str, count: int) -> NDArray[np.float64]:
    """float64 [count] in [0, 1) of a Philox stream (ddfast.runs.seeds is not for this layer)."""
    digest = hashlib.sha256(f"ddfast.nets.decoder/1|{key}".encode()).digest()
    raw = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    values: NDArray[np.float64] = (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return values
