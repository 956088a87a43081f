"""Pictures that stay bytes give the rows of those normalised at once, and a run on them is the run on floats."""

from __future__ import annotations

import pytest
import torch

from ddfast.data.resident import Resident
from ddfast.data.space import CIFAR, Space


def test_rows_are_those_of_all_normalised_at_once() -> None:
    pixels = torch.randint(0, 256, (9, 5, 7, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images, kept = Space(CIFAR).apply(pixels), Resident(pixels, CIFAR)
    assert kept.shape == images.shape
    assert len(kept) == 9
    for rows in (torch.tensor([3, 3, 0]), torch.tensor([], dtype=torch.int64), slice(2, 5), torch.arange(9) > 4):
        assert torch.equal(kept[rows], images[rows])
        assert kept[rows].is_contiguous()
    assert kept.to("cpu") is kept
    with pytest.raises(TypeError, match=r"pixels: got torch\.float32"):
        Resident(images, CIFAR)
    with pytest.raises(ValueError, match=r"pixels: got shape \[9, 5, 7\]"):
        Resident(pixels[..., 0], CIFAR)
