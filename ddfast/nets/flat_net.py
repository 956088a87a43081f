"""What matching methods need of an architecture whose parameters are one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn


class FlatNet(Protocol):
    """An architecture (a dataclass) as a function of a flat theta [size]; `FlatConvNet` describes its members."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def num_classes(self) -> int: ...
    @property
    def input_size(self) -> int: ...
    @property
    def channels(self) -> int: ...
    @property
    def norm(self) -> str: ...
    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the tensors in theta, in order."""

    @property
    def size(self) -> int:
        """Length of theta."""

    def split(self, theta: Tensor) -> list[Tensor]:
        """Views of theta as tensors of ``shapes``."""

    def join(self, tensors: Iterable[Tensor]) -> Tensor:
        """theta of tensors of ``shapes``."""

    def init(self, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """A fresh theta."""

    def logits(self, theta: Tensor, x: Tensor) -> Tensor:
        """[n, num_classes] of normalised pictures [n, channels, input_size, input_size]."""

    def module(self, theta: Tensor) -> nn.Module:
        """The same network as a module."""


def split_flat(theta: Tensor, shapes: Sequence[tuple[int, ...]], owner: object) -> list[Tensor]:
    """Views of theta [..., P] as tensors of ``shapes``.

    Raises:
        ValueError: another length; names ``owner``.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if theta.shape[-1] != sum(sizes):
        raise ValueError(f"theta: got {theta.shape[-1]} numbers, expected {sum(sizes)} for {owner}")
    parts = theta.split(sizes, -1)
    return [part.reshape(*theta.shape[:-1], *shape) for part, shape in zip(parts, shapes, strict=True)]


def join_flat(tensors: Iterable[Tensor], shapes: Sequence[tuple[int, ...]], owner: object) -> Tensor:
    """theta of tensors of ``shapes``.

    Raises:
        ValueError: other shapes; names ``owner``.
    """
    listed = list(tensors)
    if [tuple(t.shape) for t in listed] != list(shapes):
        raise ValueError(f"tensors: got shapes {[tuple(t.shape) for t in listed]}, expected {shapes} for {owner}")
    return torch.cat([t.reshape(-1) for t in listed])
