"""Cases of augment_batch for its GPU backend, run by test_triton.py like triton_cases.py."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ddfast import ops
from tests.ops.augment_helpers import NORM, Draws, draws, pictures, truth
from tests.ops.triton_cases import DEVICE, INTERPRETED, guarded, rounding


def resident(images: Tensor) -> Tensor:
    """The set on the device; interpreted, right before a page that must not be touched."""
    if not INTERPRETED:
        return images.to(DEVICE)
    room = guarded(images.numel())
    room.copy_(images.flatten())
    return room.view(images.shape)


def moved(draw: Draws) -> tuple[object, ...]:
    return tuple(value.to(DEVICE) if isinstance(value, Tensor) else value for value in draw.args())


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize(
    ("shape", "size", "factor", "channels_last", "dtype"),
    [
        ((24, 36), (17, 23), 2, True, torch.float32),
        ((24, 36), (40, 61), 3, False, torch.float32),
        ((25, 35), (25, 35), 5, True, torch.bfloat16),
        ((60, 44), (9, 13), 2, False, torch.float16),
        ((6, 4), (1, 1), 1, True, torch.float32),
    ],
)
def test_against_float64(
    shape: tuple[int, int], size: tuple[int, int], factor: int, channels_last: bool, dtype: torch.dtype, mixup: bool
) -> None:
    images = pictures(3, *shape)
    draw = draws(6, images, factor, size=size, shift=3, seed=7)
    wanted = truth(images, draw, size, mixup)
    options = {"size": size, "mixup": mixup, "channels_last": channels_last, **NORM}
    with ops.use_backend("reference"):
        plain = ops.augment_batch(images, *draw.args(), **options)
    with ops.use_backend("triton", ["augment_batch"]):
        result = ops.augment_batch(resident(images), *moved(draw), dtype=dtype, **options).cpu()
    assert result.dtype == dtype
    assert result.stride() == plain.stride()
    allowed = 2 * (plain - wanted).abs().max() + 4 * torch.finfo(torch.float32).eps + rounding(dtype) * wanted.abs()
    assert bool(((result.double() - wanted).abs() <= allowed).all())


def test_every_element_is_written_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    images, size = pictures(2, 20, 24), (21, 45)
    draw = draws(5, images, 2, size=size)
    store = torch.full((5 * 3 * 21 * 45 + 64,), 7.0, device=DEVICE)
    out = store[32:-32].view(5, 21, 45, 3).permute(0, 3, 1, 2)
    out.fill_(float("nan"))
    with monkeypatch.context() as patch, ops.use_backend("triton", ["augment_batch"]):
        patch.setattr(torch, "empty", lambda *_, **__: out)
        ops.augment_batch(resident(images), *moved(draw), size=size, **NORM)
    assert not out.isnan().any()
    assert bool((store[:32] == 7).all())
    assert bool((store[-32:] == 7).all())


def test_draws_out_of_range_give_nan_where_they_show() -> None:
    images, size = pictures(2, 16, 16), (16, 24)
    draw = draws(5, images, 2, size=size)
    draw.partner = torch.tensor([1, 2, 3, 4, 0])
    draw.mix_box = torch.tensor([2, 3, 5, 6], dtype=torch.int32)
    with ops.use_backend("triton", ["augment_batch"]):
        right = ops.augment_batch(resident(images), *moved(draw), size=size, **NORM).cpu()
        draw.index[1] = 2
        draw.boxes[3] = torch.tensor([10, 0, 7, 4])
        draw.partner[4] = 5
        wrong = ops.augment_batch(resident(images), *moved(draw), size=size, validate=False, **NORM).cpu()
    own = torch.zeros(5, dtype=torch.bool)
    own[[1, 3]] = True
    other = torch.zeros(5, dtype=torch.bool)
    other[[0, 2, 4]] = True  # their partners' samples, and a partner that does not exist
    inside = torch.zeros(size, dtype=torch.bool)
    inside[2:7, 3:9] = True
    bad = torch.where(inside, other[:, None, None], own[:, None, None])[:, None].expand_as(wrong)
    assert torch.equal(wrong.isnan(), bad)
    assert torch.equal(wrong[~bad], right[~bad])


def test_empty_batch() -> None:
    images = pictures(2, 8, 8)
    draw = draws(0, images, size=(5, 4))
    with ops.use_backend("triton"):
        assert ops.augment_batch(resident(images), *moved(draw), size=(5, 4), **NORM).shape == (0, 3, 5, 4)
