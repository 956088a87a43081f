"""IDC's augmentation and CutMix: order of the operations, formulas, draws, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ddfast.train.cutmix import apply_cutmix, draw_cutmix, mixed_labels
from ddfast.train.dsa import DSADraw, apply_dsa
from ddfast.train.idc_augment import COLUMNS, IDCDraw, apply_idc, draw_idc, pack_idc

SIZE = (8, 8)


def pictures(count: int = 4, side: int = 8) -> torch.Tensor:
    return torch.randn(count, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def test_operations_come_in_idcs_order_whatever_the_strategy_says() -> None:
    seen = set()
    for step in range(40):
        steps = draw_idc("cutout_rotate_scale_crop_color_flip", 2, SIZE, seed=1, step=step).steps
        assert steps[:2] == ("flip", "color")
        assert steps[3:] == ("cutout",)
        seen.add(steps[2])
    assert seen == {"crop", "scale", "rotate"}
    assert draw_idc("color_crop", 2, SIZE, seed=1).steps == ("color", "crop")
    assert draw_idc("", 2, SIZE, seed=1).steps == ()


def test_it_is_the_operations_written_out() -> None:
    x = pictures()
    values = torch.tensor([[1.0, 0.2, 1.5, 0.7, 2.0, -1.0, 1.0, 7.0]]).repeat(4, 1)
    values[1:, 0] = 0.0
    values[2, 4:6] = torch.tensor([-1.0, 3.0])
    found = apply_idc(x, IDCDraw(("flip", "color", "crop", "cutout"), values))
    want = torch.zeros_like(x)
    for n in range(4):
        flip, b, s, c, dy, dx, oy, ox = values[n].double().tolist()
        y = x[n].flip(2) if flip else x[n]
        y = y + b
        y = (y - y.mean(0)) * s + y.mean(0)
        y = (y - y.mean()) * c + y.mean()
        for i in range(8):
            for j in range(8):
                if 0 <= i + dy < 8 and 0 <= j + dx < 8:
                    want[n, :, i, j] = y[:, int(i + dy), int(j + dx)]
        rows = [min(max(int(oy) - 2 + k, 0), 7) for k in range(4)]
        columns = [min(max(int(ox) - 2 + k, 0), 7) for k in range(4)]
        for i in rows:
            for j in columns:
                want[n, :, i, j] = 0
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-6)  # parameters are float32


@pytest.mark.parametrize("op", ["scale", "rotate"])
def test_warps_sample_between_pixel_centres(op: str) -> None:
    """A coordinate picture shows where each pixel came from: about the centre of the picture, in pixels."""
    side = 9
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    x = torch.stack([at[:, None].expand(side, side), at[None].expand(side, side), torch.ones(side, side)])[None]
    value = 0.9 if op == "scale" else math.radians(7)
    values = torch.zeros(1, 8)
    values[:, 4:6] = torch.tensor([value, 1.1]) if op == "scale" else torch.tensor([value, 0.0])
    found = apply_idc(x, IDCDraw((op,), values))[0]
    inner = slice(2, side - 2)
    i, j = at[inner, None], at[None, inner]
    if op == "scale":
        rows, columns = i * 1.1 + 0 * j, j * 0.9 + 0 * i
    else:
        rows, columns = math.sin(value) * j + math.cos(value) * i, math.cos(value) * j - math.sin(value) * i
    torch.testing.assert_close(found[0, inner, inner], rows, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[1, inner, inner], columns, rtol=1e-6, atol=1e-6)
    assert found[2, 0, 0] < 1  # zeros beyond the border


def in_turn(x: torch.Tensor, draw: IDCDraw) -> torch.Tensor:
    """The operations one after the other in plain torch."""
    for op in draw.steps:
        v = draw.values[:, slice(*COLUMNS[op])].to(x).expand(len(x), -1)
        if op == "flip":
            x = torch.where(v[:, 0, None, None, None] > 0.5, x.flip(3), x)
        elif op in ("scale", "rotate"):
            zero = torch.zeros_like(v[:, 0])
            matrix = [v[:, 0], zero, zero, zero, v[:, -1], zero]
            if op == "rotate":
                matrix = [v[:, 0].cos(), -v[:, 0].sin(), zero, v[:, 0].sin(), v[:, 0].cos(), zero]
            grid = F.affine_grid(torch.stack(matrix, 1).view(-1, 2, 3), list(x.shape), align_corners=False)
            x = F.grid_sample(x, grid, align_corners=False)
        else:
            x = apply_dsa(x, DSADraw(op, draw.values[:, slice(*COLUMNS[op])]))
    return x


@pytest.mark.parametrize("siamese", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_pass_equals_the_operations_in_turn(dtype: torch.dtype, siamese: bool) -> None:
    seen = set()
    for size in ((8, 8), (7, 10)):
        x = torch.randn(4, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(5)).requires_grad_()
        g = torch.randn(4, 3, *size, dtype=dtype, generator=torch.Generator().manual_seed(6))
        for step in range(12):
            draw = draw_idc("cutout_rotate_scale_crop_color_flip", 4, size, seed=4, step=step, siamese=siamese)
            seen.add(draw.steps[2])
            pairs = zip(
                *((y, *torch.autograd.grad(y, x, g)) for y in (apply_idc(x, draw), in_turn(x, draw))), strict=True
            )
            for mine, want in pairs:
                atol = 1e-12 if dtype == torch.float64 else 2e-5
                torch.testing.assert_close(mine, want, rtol=0, atol=atol)
    assert seen == {"crop", "scale", "rotate"}


def test_siamese_draws_are_one_for_all_and_affine() -> None:
    x, y = pictures(), pictures().flip(0)
    draw = draw_idc("color_crop_cutout_flip", 4, SIZE, seed=0, step=5, siamese=True)
    assert draw.values.shape == (1, 8)
    torch.testing.assert_close(apply_idc(torch.cat([x, y]), draw)[4:], apply_idc(y, draw))
    shift = apply_idc(torch.zeros_like(x), draw)
    torch.testing.assert_close(apply_idc(x + y, draw) - shift, apply_idc(x, draw) + apply_idc(y, draw) - 2 * shift)


def test_draws_depend_on_the_counters_alone() -> None:
    one = draw_idc("color_flip", 4, SIZE, seed=0, epoch=3, step=1)
    assert torch.equal(one.values, draw_idc("color_flip", 4, SIZE, seed=0, epoch=3, step=1).values)
    assert not torch.equal(one.values, draw_idc("color_flip", 4, SIZE, seed=0, epoch=4, step=1).values)
    assert len(set(one.values[:, 1].tolist())) == 4


def test_cutmix_pastes_one_box_and_weights_labels_by_its_area() -> None:
    x, y = pictures(6), torch.tensor([0, 1, 2, 0, 1, 2])
    found = [draw_cutmix(6, SIZE, seed=2, epoch=epoch, probability=0.5) for epoch in range(400)]
    mixed = [draw for draw in found if draw is not None]
    assert 150 < len(mixed) < 250
    assert np.mean([draw.share for draw in mixed]) > 0.5  # the box loses what the border cuts off
    draw = next(draw for draw in mixed if 0.2 < draw.share < 0.8)
    top, left, height, width = draw.box
    assert draw.share == pytest.approx(1 - height * width / 64)
    want = x.clone()
    for n in range(6):
        for i in range(top, top + height):
            for j in range(left, left + width):
                want[n, :, i, j] = x[draw.partner[n], :, i, j]
    assert torch.equal(apply_cutmix(x, draw), want)
    targets = mixed_labels(y, 3, draw, torch.float64)
    logits = torch.randn(6, 3, dtype=torch.float64)
    loss = F.cross_entropy(logits, targets)
    both = draw.share * F.cross_entropy(logits, y) + (1 - draw.share) * F.cross_entropy(logits, y[draw.partner])
    torch.testing.assert_close(loss, both)
    assert draw_cutmix(6, SIZE, seed=2, probability=0.0) is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="dsa: got 'color_blur'"):
        draw_idc("color_blur", 2, SIZE, seed=0)
    with pytest.raises(ValueError, match="draw: got operation 'blur'"):
        apply_idc(pictures(), IDCDraw(("blur",), torch.zeros(1, 8)))
    with pytest.raises(ValueError, match="parameters of 3 pictures"):
        apply_idc(pictures(), IDCDraw(("flip",), torch.zeros(3, 8)))
    with pytest.raises(ValueError, match="probability 2"):
        draw_cutmix(2, SIZE, seed=0, probability=2)
    with pytest.raises(ValueError, match="got color, flip, expected flip, color"):
        pack_idc(IDCDraw(("color", "flip"), torch.zeros(1, 8)), SIZE)
