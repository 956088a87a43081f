"""What a decoder of D3 (Qin et al., arXiv 2403.00999) is: kinds, widths, shapes and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

KINDS = ("small", "medium", "large")
SIZES = (16, 32, 64, 128, 256)
BATCH_NORMS = ("batch", "running")
SIDE = 2  # of the planes that the first layer gives, in pixels
_FIRST = {"small": 1, "medium": 2, "large": 4}  # first width in units of ``kernels``


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
            be represented; 2.85 reaches them with the constants of every known set (ours).
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
            total += before * after * self.kernel**2 * (SIDE << place) ** 2
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
