"""The decoders of D3 (Qin et al., "Distributional Dataset Distillation with Subtask Decomposition", arXiv 2403.00999).

A decoder turns latent vectors into normalised pictures. ``make_decoder`` draws its weights as PyTorch initialises
layers, from a counter-based stream of its own; torch's global generator is left alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

KINDS = ("small", "medium", "large")
SIZES = (16, 32, 64, 128, 256)
BATCH_NORMS = ("batch", "running")
_FIRST = {"small": 1, "medium": 2, "large": 4}  # first width in units of ``kernels``
_SIDE = 2  # of the planes that the first layer gives, in pixels
_SLOPE = 0.01
Statistics = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DecoderConfig:
    """Architecture of a decoder; it has log2(size) - 1 blocks, each doubling planes of 2 x 2 pixels at first.

    ======  ========================  ==================================  ==============================
    kind    first layer               block                               widths w_0, w_1, ... (at k = ``kernels``)
    ======  ========================  ==================================  ==============================
    small   linear, ``z`` to 4 w_0    transposed 4x4, stride 2            k / 1, 2, 4, 8, 8, ...
    medium  linear, ``z`` to 4 w_0    transposed 3x3, stride 2            2k / 1, 2, 4, 8, 16, 16, ...; the last block
                                                                          keeps its width
    large   none, ``z`` = 4 w_0       transposed 3x3, stride 2            4k / the same
    ======  ========================  ==================================  ==============================

    Every convolution has a bias, every block ends with batch norm and LeakyReLU(0.01); a 3x3 convolution to three
    channels and ``scale * tanh`` follow. With k = 256 these are the paper's decoders: small for 32 to 256 pixels,
    medium for 32 and 64, large for 64. At other sizes the widths follow the same rule (ours).

    Attributes:
        kind: "small", "medium" or "large".
        size: side of the pictures in pixels: 16, 32, 64, 128 or 256.
        z: length of a latent; None for 64 (small), 8 k (medium, 2048) and 16 k (large, 4096; no other fits).
        kernels: k, a multiple of 8.
        scale: of the tanh. 1 is the paper's: normalised pixels end at -1 and 1, so the darkest and the brightest cannot
            be represented; 2.7 reaches them with ImageNet's constants (ours).
        batch_norm: "batch" normalises by the call's own statistics always (the paper); "running" keeps running
            statistics in training mode and takes them in evaluation mode, where latents are decoded independently.

    Raises:
        TypeError, ValueError: a value of another type or out of range.
    """

    kind: str = "small"
    size: int = 32
    z: int | None = None
    kernels: int = 256
    scale: float = 1.0
    batch_norm: str = "batch"

    def __post_init__(self) -> None:
        for name, text, known in (("kind", self.kind, KINDS), ("batch_norm", self.batch_norm, BATCH_NORMS)):
            if text not in known:
                raise ValueError(f"{name}: got {text!r}, expected one of {', '.join(known)}")
        for name, number in (("size", self.size), ("kernels", self.kernels), ("z", self.z)):
            if (number is not None or name != "z") and (not isinstance(number, int) or isinstance(number, bool)):
                raise TypeError(f"{name}: got {number!r}, expected an integer")
        if self.size not in SIZES:
            raise ValueError(
                f"size: got {self.size}, expected one of {', '.join(map(str, SIZES))} (pixels); resize the pictures"
            )
        if self.kernels < 8 or self.kernels % 8:
            raise ValueError(f"kernels: got {self.kernels}, expected a multiple of 8 from 8 (the paper's is 256)")
        if self.kind == "large" and self.z not in (None, 16 * self.kernels):
            raise ValueError(
                f"z: got {self.z} for a large decoder, which has no linear layer and takes 16 * kernels = "
                f"{16 * self.kernels}; leave it out"
            )
        if self.z is not None and self.z < 1:
            raise ValueError(f"z: got {self.z}, expected 1 or more")
        if not isinstance(self.scale, (int, float)) or not 0 < self.scale < math.inf:
            raise ValueError(f"scale: got {self.scale!r}, expected a positive number")

    @property
    def latent_size(self) -> int:
        """Length of a latent."""
        if self.z is not None:
            return self.z
        return {"small": 64, "medium": 8 * self.kernels, "large": 16 * self.kernels}[self.kind]

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels before the first block and after each."""
        first, count = _FIRST[self.kind] * self.kernels, self.size.bit_length() - 2
        if self.kind == "small":
            return tuple(first >> min(place, 3) for place in range(count + 1))
        halved = [first >> min(place, 4) for place in range(count)]
        return (*halved, halved[-1])

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the trained tensors, by name, in the order of `Decoder.named_parameters`."""
        widths, kernel = self.widths, self.kernel
        found: dict[str, tuple[int, ...]] = {}
        if self.kind != "large":
            found |= _pair("first", (4 * widths[0], self.latent_size), 4 * widths[0])
        for place, (before, after) in enumerate(pairwise(widths)):
            found |= _pair(f"blocks.{place}.conv", (before, after, kernel, kernel), after)
            found |= _pair(f"blocks.{place}.norm", (after,), after)
        return found | _pair("head", (3, widths[-1], 3, 3), 3)

    @property
    def stored_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all tensors that a decoder is stored with: ``shapes`` and, for "running", the running statistics."""
        found = dict(self.shapes)
        for place, width in enumerate(self.widths[1:] if self.batch_norm == "running" else ()):
            found |= {f"blocks.{place}.norm.running_{name}": (width,) for name in ("mean", "var")}
        return found

    @property
    def kernel(self) -> int:
        """Side of the transposed convolutions' kernels."""
        return 4 if self.kind == "small" else 3

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @property
    def macs(self) -> int:
        """Multiplications with addition per decoded picture, in the linear layer and the convolutions."""
        widths = self.widths
        total = 0 if self.kind == "large" else self.latent_size * 4 * widths[0]
        for place, (before, after) in enumerate(pairwise(widths)):
            total += before * after * self.kernel**2 * (_SIDE << place) ** 2
        return total + widths[-1] * 3 * 9 * self.size**2

    def as_json(self) -> dict[str, Any]:
        """For a manifest, with ``z`` resolved."""
        return {**asdict(self), "z": self.latent_size}

    @classmethod
    def from_json(cls, value: Any) -> DecoderConfig:
        """Of a manifest.

        Raises:
            ValueError: something else than `as_json` gives.
        """
        known = {field.name for field in fields(cls)}
        if not isinstance(value, Mapping) or not {"kind", "size"} <= set(value) <= known:
            raise ValueError(f"decoder: got {value!r}, expected a mapping with {', '.join(sorted(known))}")
        return cls(**value)


def _pair(name: str, weight: tuple[int, ...], bias: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": weight, f"{name}.bias": (bias,)}


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
        x = (z if self.first is None else self.first(z)).view(len(z), self.config.widths[0], _SIDE, _SIDE)
        for place, block in enumerate(self._blocks):
            x = block(x, groups, None if statistics is None else statistics[place])
        pictures: Tensor = torch.tanh(self.head(x))
        return pictures if self.config.scale == 1 else pictures * self.config.scale

    @torch.no_grad()
    def statistics(self, z: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, biased variance) of each batch norm's input when z [n, latent_size] is decoded in one call."""
        found: list[tuple[Tensor, Tensor]] = []
        self._check(z, 1)
        x = (z if self.first is None else self.first(z)).view(len(z), self.config.widths[0], _SIDE, _SIDE)
        for block in self._blocks:
            var, mean = torch.var_mean(block.conv(x), (0, 2, 3), correction=0)
            found.append((mean, var))
            x = block(x, 1, found[-1])
        return found

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
