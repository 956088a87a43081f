from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ddfast import ops
from ddfast.train.dsa import STRATEGY, DSADraw, apply_dsa, draw_dsa, pack, parse_strategy, transposed_dsa

OPS = STRATEGY.split("_")
N, H, W = 4, 8, 6


def batch(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(N, 3, H, W, dtype=dtype, generator=torch.Generator().manual_seed(3))


def transcribed(op: str, x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """The published formulae, picture by picture, in float64; x [3, H, W], parameters of one picture."""
    height, width = x.shape[1:]
    out = np.zeros_like(x)
    if op == "color":
        x = x + p[0]
        grey = x.mean(0, keepdims=True)
        x = (x - grey) * p[1] + grey
        return (x - x.mean()) * p[2] + x.mean()
    if op == "flip":
        return x[:, :, ::-1] if p[0] else x
    if op == "crop":
        for y in range(height):
            for z in range(width):
                v, u = y + int(p[0]), z + int(p[1])
                if 0 <= v < height and 0 <= u < width:
                    out[:, y, z] = x[:, v, u]
        return out
    if op == "cutout":
        out = x.copy()
        a, b = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
        for i in range(a):
            for j in range(b):
                v, u = int(p[0]) + i - a // 2, int(p[1]) + j - b // 2
                out[:, min(max(v, 0), height - 1), min(max(u, 0), width - 1)] = 0
        return out
    angle = p[0]
    matrix = np.diag(p) if op == "scale" else np.array(
        [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    )  # fmt: skip
    for y in range(height):
        for z in range(width):
            u, v = matrix @ np.array([2 * z / (width - 1) - 1, 2 * y / (height - 1) - 1])
            column, row = (u + 1) / 2 * (width - 1), (v + 1) / 2 * (height - 1)
            for i in (math.floor(row), math.floor(row) + 1):
                for j in (math.floor(column), math.floor(column) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        out[:, y, z] += x[:, i, j] * max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
    return out


@pytest.mark.parametrize("op", OPS)
def test_operations_agree_with_the_formulae(op: str) -> None:
    x = batch()
    for step in range(6):
        draw = draw_dsa(op, N, (H, W), seed=1, step=step)
        out = apply_dsa(x, draw)
        values = draw.values.double().numpy()
        truth = np.stack([transcribed(op, x[i].numpy(), values[i]) for i in range(N)])
        torch.testing.assert_close(out, torch.from_numpy(truth), rtol=0, atol=1e-12)
        single = apply_dsa(x.float(), draw)
        torch.testing.assert_close(single.double(), out, rtol=1e-4, atol=1e-4)
        assert out.shape == x.shape


@pytest.mark.parametrize("op", OPS)
def test_transposed_and_packed(op: str) -> None:
    """``transposed_dsa`` is the gradient of ``apply_dsa``, and so are the op's own from packed rows, siamese or not."""
    for siamese in (False, True):
        draw = draw_dsa(op, N, (H, W), seed=2, siamese=siamese)
        x, g = batch().requires_grad_(), batch().flip(0)
        out = apply_dsa(x, draw)
        (wanted,) = torch.autograd.grad(out, x, g)
        assert torch.equal(transposed_dsa(g, draw), wanted)
        rows = pack(draw, (H, W))
        assert rows.shape == (1 if siamese else N, 13)
        assert torch.equal(ops.dsa(batch(), rows), out)
        assert torch.equal(transposed_dsa(g, None), g)


@pytest.mark.parametrize("op", OPS)
def test_affine_in_the_pixels_with_the_right_gradient(op: str) -> None:
    draw = draw_dsa(op, N, (H, W), seed=7, step=2)
    x = batch().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: apply_dsa(value, draw), (x,))
    a, b = batch(), torch.randn_like(batch())
    middle = apply_dsa(0.25 * a + 0.75 * b, draw)
    torch.testing.assert_close(middle, 0.25 * apply_dsa(a, draw) + 0.75 * apply_dsa(b, draw), rtol=1e-9, atol=1e-9)


def test_cutout_beyond_the_edge_still_hides_the_edge_row() -> None:
    x = torch.ones(1, 1, 8, 8)
    out = apply_dsa(x, DSADraw("cutout", torch.tensor([[8.0, 4.0]])))  # rows 6..9
    assert (out[0, 0, 6:8, 2:6] == 0).all()
    assert out.sum() == 64 - 8
    beyond = apply_dsa(x, DSADraw("cutout", torch.tensor([[12.0, 4.0]])))  # rows 10..13, all clamped to 7
    assert (beyond[0, 0, 7, 2:6] == 0).all()
    assert beyond.sum() == 64 - 4
    corner = apply_dsa(x, DSADraw("cutout", torch.tensor([[0.0, 0.0]])))
    assert corner.sum() == 64 - 4  # rows -2..1 clamped to 0..1


def test_draws_have_the_published_ranges() -> None:
    spans = {
        "color": [(-0.5, 0.5), (0, 2), (0.5, 1.5)], "crop": [(-4, 4), (-4, 4)], "cutout": [(0, 32), (0, 32)],
        "flip": [(0, 1)], "scale": [(1 / 1.2, 1.2)] * 2, "rotate": [(-math.pi / 12, math.pi / 12)],
    }  # fmt: skip
    for op, wanted in spans.items():
        values = draw_dsa(op, 4000, (32, 32), seed=0).values.double()
        for column, (low, high) in zip(values.T, wanted, strict=True):
            assert column.min() >= low - 1e-6
            assert column.max() <= high + 1e-6
            assert column.min() < low + 0.01 * (high - low) + 1e-6
            assert abs(float(column.mean()) - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 4000) * 1.8
        if op in ("crop", "cutout"):
            assert torch.equal(values, values.round())


def test_draws_are_a_function_of_the_counters() -> None:
    ops = {draw_dsa(STRATEGY, 3, (32, 32), seed=5, epoch=e, step=s).op for e in range(8) for s in range(8)}
    assert ops == set(OPS)
    first, again = (draw_dsa(STRATEGY, 3, (32, 32), seed=5, epoch=1, step=2) for _ in range(2))
    assert first.op == again.op
    assert torch.equal(first.values, again.values)
    siamese = draw_dsa("scale", 3, (32, 32), seed=5, siamese=True)
    assert siamese.values.shape == (1, 2)
    pair = apply_dsa(batch()[:1].expand(3, -1, -1, -1), siamese)
    assert torch.equal(pair[0], pair[2])


def test_wrong_strategies_and_draws_are_named() -> None:
    assert parse_strategy("color_CROP") == ("color", "crop")
    for wrong in ("", "color_blur"):
        with pytest.raises(ValueError, match="dsa: got"):
            parse_strategy(wrong)
    with pytest.raises(ValueError, match="operation 'blur'"):
        apply_dsa(batch(), DSADraw("blur", torch.zeros(1, 1)))
    with pytest.raises(ValueError, match="parameters of 3 pictures, expected 4 or 1"):
        apply_dsa(batch(), DSADraw("flip", torch.zeros(3, 1)))
    assert apply_dsa(batch()[:0], draw_dsa("crop", 0, (H, W), seed=0)).shape == (0, 3, H, W)
